//! Which route a request takes (contract sections 6, 7 and 7.1).

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

mod common;
#[path = "common/request.rs"]
mod request;

use common::*;
use std::sync::Arc;

use outrigger_xds::snapshot::{
    ClientCertificateMatcher, FilterOverrides, HeaderEdits, HttpConnectionManager, PathMatcher,
    RequireTls, Route, RouteAction, RouteId, RouteMatcher, RouteTable, Target, VirtualHost,
};
use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};
use request::Request;
use serde_json::{Value, json};

/// A table whose virtual hosts are named after their domains, each with one route.
fn hosts(domains: &[&str]) -> Value {
    let hosts: Vec<Value> = domains
        .iter()
        .map(|domain| {
            json!({ "name": domain, "domains": [domain], "routes": [
                { "match": { "prefix": "" }, "route": { "cluster": "app" } },
            ]})
        })
        .collect();
    set(&http(), &format!("{TABLE}/virtual_hosts"), json!(hosts))
}

fn host_of<'a>(hcm: &'a HttpConnectionManager, authority: &str) -> Option<&'a str> {
    table(hcm).find(&Request::to(authority, "/"), 0).map(|route| &*route.virtual_host)
}

/// Routes of the one virtual host, named by their index.
fn routes(matches: &[Value]) -> Value {
    let routes: Vec<Value> = matches
        .iter()
        .enumerate()
        .map(|(index, criteria)| {
            json!({ "name": index.to_string(), "match": criteria, "route": { "cluster": "app" } })
        })
        .collect();
    set(&http(), &format!("{HOST}/routes"), json!(routes))
}

#[track_caller]
fn matches(criteria: &Value, request: &Request) -> bool {
    let loaded = loaded(&routes(std::slice::from_ref(criteria)));
    table(hcm(&loaded)).find(request, 0).is_some()
}

#[test]
fn section_6_domains_exact_then_longest_suffix_then_longest_prefix_then_star() {
    let loaded = loaded(&hosts(&[
        "*",
        "www.foo.com",
        "*.foo.com",
        "*-bar.foo.com",
        "*.b.foo.com",
        "foo.*",
        "foo.b*",
        "FOO.org:80",
        "[::1]",
        "*.com",
    ]));
    let hcm = hcm(&loaded);
    for (authority, host) in [
        ("www.foo.com", "www.foo.com"),
        ("WWW.Foo.COM", "www.foo.com"),
        ("a.foo.com", "*.foo.com"),
        ("a-bar.foo.com", "*-bar.foo.com"),
        // The star never stands for nothing.
        ("-bar.foo.com", "*.foo.com"),
        (".foo.com", "*.com"),
        ("x.b.foo.com", "*.b.foo.com"),
        ("foo.com", "*.com"),
        ("foo.net", "foo.*"),
        ("FOO.bar", "foo.b*"),
        ("foo.b", "foo.*"),
        ("foo.", "*"),
        ("foo.org:80", "FOO.org:80"),
        ("foo.org", "foo.*"),
        ("[::1]", "[::1]"),
        ("[::1]:80", "*"),
        ("", "*"),
    ] {
        assert_eq!(host_of(hcm, authority), Some(host), "{authority}");
    }
}

#[test]
fn section_6_no_virtual_host_is_no_route() {
    let loaded = loaded(&hosts(&["a.b"]));
    assert_eq!(host_of(hcm(&loaded), "b.a"), None);
    assert_eq!(table(hcm(&loaded)).virtual_host(&Request::to("a.b", "/")), Some("a.b"));
}

#[test]
fn section_6_a_domain_may_be_in_a_table_once_and_wildcards_stand_at_an_end() {
    let at = format!("Listener web: {HCM_PATH}.route_config.virtual_hosts: ");
    for (domains, expected) in [
        (["a.b", "A.B"], "domain \"a.b\" is in virtual host \"a.b\" and in \"A.B\""),
        (["*.b", "*.B"], "domain \"*.b\" is in virtual host \"*.b\" and in \"*.B\""),
        (["a.*", "A.*"], "domain \"a.*\" is in virtual host \"a.*\" and in \"A.*\""),
        (["x", "a*b"], "domain \"a*b\": a wildcard may only be the first or the last character"),
        (["x", "*a*"], "domain \"*a*\": a wildcard may only be the first or the last character"),
        (["x", "**"], "domain \"**\": a wildcard may only be the first or the last character"),
    ] {
        assert_eq!(refusal(&hosts(&domains)), format!("{at}{expected}"));
    }
}

#[test]
fn section_6_ignore_port_in_host_matching() {
    let pointer = format!("{TABLE}/ignore_port_in_host_matching");
    let loaded = loaded(&set(&hosts(&["a.b", "[::1]"]), &pointer, json!(true)));
    for (authority, host) in [
        ("a.b:81", Some("a.b")),
        ("a.b", Some("a.b")),
        ("[::1]:80", Some("[::1]")),
        ("[::1]", Some("[::1]")),
        ("[::2]", None),
    ] {
        assert_eq!(host_of(hcm(&loaded), authority), host, "{authority}");
    }
}

#[test]
fn section_6_require_tls_redirects_plain_requests() {
    let found = |require: &str, request: &Request| {
        let loaded = loaded(&set(&http(), &format!("{HOST}/require_tls"), json!(require)));
        match &table(hcm(&loaded)).find(request, 0).unwrap().action {
            RouteAction::Redirect(redirect) => {
                assert_eq!((redirect.status, redirect.scheme.as_deref()), (301, Some("https")));
                "redirect"
            }
            _ => "forward",
        }
    };
    let plain = Request::to("a", "/");
    let secure = Request { scheme: "https", ..plain.clone() };
    let internal = Request { internal: true, ..plain.clone() };
    assert_eq!(found("NONE", &plain), "forward");
    assert_eq!(found("EXTERNAL_ONLY", &plain), "redirect");
    assert_eq!(found("EXTERNAL_ONLY", &internal), "forward");
    assert_eq!(found("ALL", &internal), "redirect");
    assert_eq!(found("ALL", &secure), "forward");
}

#[test]
fn section_7_the_first_route_that_matches_wins() {
    let loaded = loaded(&routes(&[
        json!({ "path": "/exact" }),
        json!({ "prefix": "/long" }),
        json!({ "prefix": "/longer" }),
        json!({ "safe_regex": { "regex": "/r/[0-9]+" } }),
        json!({ "prefix": "/" }),
    ]));
    let routes = table(hcm(&loaded));
    for (path, index) in [
        ("/exact", "0"),
        ("/exact?q", "0"),
        ("/exact/", "4"),
        ("/longer", "1"),
        ("/r/12", "3"),
        ("/r/12?x", "3"),
        ("/r/12x", "4"),
        ("/", "4"),
    ] {
        let route = routes.find(&Request::to("a", path), 0).unwrap();
        assert_eq!(&*route.name, index, "{path}");
        assert_eq!(routes.route(route.id).unwrap().name, route.name);
    }
}

#[test]
fn section_7_path_specifiers() {
    let any_case = |mut criteria: Value| {
        criteria["case_sensitive"] = json!(false);
        criteria
    };
    for (criteria, path, expected) in [
        (json!({ "prefix": "/a" }), "/ab", true),
        (json!({ "prefix": "/a" }), "/A", false),
        (any_case(json!({ "prefix": "/a" })), "/A", true),
        (json!({ "prefix": "/a?" }), "/a?", false),
        (json!({ "path": "/a" }), "/a?b=c", true),
        (json!({ "path": "/a" }), "/a#f", true),
        (json!({ "path": "/a" }), "/ab", false),
        (any_case(json!({ "path": "/a" })), "/A", true),
        (json!({ "path_separated_prefix": "/a" }), "/a", true),
        (json!({ "path_separated_prefix": "/a" }), "/a/", true),
        (json!({ "path_separated_prefix": "/a" }), "/a/b", true),
        (json!({ "path_separated_prefix": "/a" }), "/a?b", true),
        (json!({ "path_separated_prefix": "/a" }), "/ab", false),
        (any_case(json!({ "path_separated_prefix": "/a" })), "/A/b", true),
        (json!({ "safe_regex": { "google_re2": {}, "regex": "/[a-c]" } }), "/b", true),
        (json!({ "safe_regex": { "regex": "/[a-c]" } }), "/bb", false),
        (any_case(json!({ "safe_regex": { "regex": "/[a-c]" } })), "/B", false),
        (json!({ "connect_matcher": {} }), "/", false),
    ] {
        assert_eq!(matches(&criteria, &Request::to("h", path)), expected, "{criteria} {path}");
    }
    let connect = Request { method: "CONNECT", ..Request::to("h", "") };
    assert!(matches(&json!({ "connect_matcher": {} }), &connect));
    assert!(!matches(&json!({ "prefix": "" }), &connect));
}

#[test]
fn section_7_1_header_matchers() {
    let check = |matcher: Value, headers: &[(&'static str, &'static str)]| {
        let criteria = json!({ "prefix": "/", "headers": [matcher] });
        matches(&criteria, &Request::to("h.x", "/p?q").with(headers))
    };
    let is = |text: &str| json!({ "name": "X-A", "string_match": { "exact": text } });
    let with = |mut matcher: Value, field: &str| {
        matcher[field] = json!(true);
        matcher
    };
    let one: &[_] = &[("x-a", "one")];
    let two: &[_] = &[("x-a", "one"), ("x-b", "-"), ("x-a", "two")];
    let none: &[_] = &[];

    assert!(check(json!({ "name": "x-a" }), one) && !check(json!({ "name": "x-a" }), none));
    let present = |wanted: bool| json!({ "name": "x-a", "present_match": wanted });
    assert!(check(present(true), one) && !check(present(true), none));
    assert!(!check(present(false), one) && check(present(false), none));
    assert!(!check(with(present(true), "invert_match"), one));
    assert!(check(with(present(true), "invert_match"), none));

    assert!(check(is("one"), one) && !check(is("two"), one) && !check(is("one"), none));
    // Several values are joined with a comma.
    assert!(check(is("one,two"), two) && !check(is("one"), two));
    for (operator, hit, miss) in
        [("prefix", "one,t", "two"), ("suffix", "e,two", "one"), ("contains", "e,t", "e-t")]
    {
        let matcher = |text: &str| json!({ "name": "x-a", "string_match": { operator: text } });
        assert!(check(matcher(hit), two), "{operator}");
        assert!(!check(matcher(miss), two), "{operator}");
        let loud = json!({ "name": "x-a", "string_match": {
            operator: hit.to_uppercase(), "ignore_case": true } });
        assert!(check(loud, two), "{operator}");
    }
    let regex =
        |text: &str| json!({ "name": "x-a", "string_match": { "safe_regex": { "regex": text } } });
    assert!(check(regex("o.*,t.o"), two) && !check(regex("one"), two) && check(regex("on."), one));

    // A missing header never matches, inverted or not, unless it is treated as empty.
    assert!(check(with(is("two"), "invert_match"), one));
    assert!(!check(with(is("one"), "invert_match"), one));
    assert!(!check(with(is("one"), "invert_match"), none));
    let as_empty = with(with(is("one"), "invert_match"), "treat_missing_header_as_empty");
    assert!(check(as_empty, none));

    let range = json!({ "name": "x-n", "range_match": { "start": -2, "end": 5 } });
    for (value, expected) in
        [("-2", true), ("4", true), ("5", false), ("-3", false), ("x", false), ("1.0", false)]
    {
        let value: &[(&str, &str)] = &[("x-n", Box::leak(value.to_owned().into_boxed_str()))];
        assert_eq!(check(range.clone(), value), expected);
    }
    assert!(!check(range, &[("x-n", "1"), ("x-n", "2")]));

    for (field, text) in [
        ("exact_match", "one"),
        ("prefix_match", "on"),
        ("suffix_match", "ne"),
        ("contains_match", "n"),
    ] {
        assert!(check(json!({ "name": "x-a", field: text }), one), "{field}");
        assert!(!check(json!({ "name": "x-a", field: "zz" }), one), "{field}");
    }
    assert!(check(json!({ "name": "x-a", "safe_regex_match": { "regex": "o.e" } }), one));

    for (name, text) in [
        (":method", "GET"),
        (":path", "/p?q"),
        (":authority", "h.x"),
        ("host", "h.x"),
        (":scheme", "http"),
    ] {
        assert!(check(json!({ "name": name, "string_match": { "exact": text } }), none), "{name}");
    }
}

#[test]
fn section_7_query_parameters() {
    let check = |matcher: Value, path: &str| {
        let criteria = json!({ "prefix": "/", "query_parameters": [matcher] });
        matches(&criteria, &Request::to("h", path))
    };
    let is = |text: &str| json!({ "name": "k", "string_match": { "exact": text } });
    assert!(check(is("v"), "/?k=v") && check(is("v"), "/?a&k=v&k=w"));
    assert!(!check(is("w"), "/?k=v&k=w") && !check(is("v"), "/?kk=v") && !check(is("v"), "/k=v"));
    assert!(check(is(""), "/?k") && check(is(""), "/?k="));
    assert!(!check(is("v"), "/#?k=v"));
    let present = |wanted: bool| json!({ "name": "k", "present_match": wanted });
    assert!(check(present(true), "/?k") && !check(present(true), "/"));
    assert!(check(present(false), "/") && !check(present(false), "/?k"));
    assert!(check(json!({ "name": "k" }), "/?k") && !check(json!({ "name": "k" }), "/"));
}

#[test]
fn section_7_tls_context() {
    let plain = (false, false);
    let unverified = (true, false);
    let verified = (true, true);
    for (criteria, matching) in [
        (json!({}), vec![plain, unverified, verified]),
        (json!({ "presented": true }), vec![unverified, verified]),
        (json!({ "presented": false }), vec![plain]),
        (json!({ "validated": true }), vec![verified]),
        (json!({ "validated": false }), vec![plain, unverified]),
        (json!({ "presented": true, "validated": false }), vec![unverified]),
        (json!({ "presented": false, "validated": true }), vec![]),
    ] {
        for certificate in [plain, unverified, verified] {
            let request = Request { certificate, ..Request::to("a", "/") };
            let found = matches(&json!({ "prefix": "/", "tls_context": criteria }), &request);
            assert_eq!(found, matching.contains(&certificate), "{criteria} {certificate:?}");
        }
    }
}

#[test]
fn section_7_grpc() {
    let check = |content_type: &'static str| {
        let request = Request::to("h", "/").with(&[("content-type", content_type)]);
        matches(&json!({ "prefix": "/", "grpc": {} }), &request)
    };
    assert!(check("application/grpc") && check("application/grpc+proto"));
    assert!(!check("application/grpc-web") && !check("text/plain"));
}

#[test]
fn section_7_runtime_fraction() {
    let share = json!({ "default_value": { "numerator": 30, "denominator": "HUNDRED" } });
    let loaded = loaded(&routes(&[json!({ "prefix": "/", "runtime_fraction": share })]));
    let routes = table(hcm(&loaded));
    let hits = (0..1000).filter(|n| routes.find(&Request::to("h", "/"), *n).is_some()).count();
    assert_eq!(hits, 300);
}

#[test]
fn section_8_weighted_clusters_are_drawn_by_weight() {
    let base = set(&http(), "/static_resources/clusters/-", cluster("b"));
    let weighted = json!({ "weighted_clusters": { "clusters": [
        { "name": "app", "weight": 1 }, { "name": "b", "weight": 0 }, { "name": "b", "weight": 3 },
    ]}});
    let loaded = loaded(&set(&base, ACTION, weighted));
    let Target::Weighted(clusters) = &forward(&loaded).target else { panic!() };
    let mut hits = [0; 2];
    for random in 0..4000 {
        let target = clusters.pick(random).target.as_ref().unwrap();
        hits[target.id().0 as usize] += 1;
    }
    assert_eq!(hits, [1000, 3000]);
}

/// A virtual host without going through a file.
fn virtual_host(domain: &str, paths: Vec<PathMatcher>) -> VirtualHost {
    let name: Arc<str> = Arc::from(domain);
    let route = |(index, path): (usize, PathMatcher)| Route {
        id: RouteId::default(),
        name: index.to_string().into(),
        virtual_host: name.clone(),
        matcher: RouteMatcher {
            path,
            headers: Box::default(),
            query: Box::default(),
            grpc: false,
            client_certificate: ClientCertificateMatcher::default(),
            fraction: None,
        },
        action: RouteAction::NonForwarding,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        include_request_attempt_count: false,
        include_attempt_count_in_response: false,
        stat_prefix: None,
        filters: FilterOverrides::default(),
        body_buffer_bytes: None,
        decorator: None,
        metadata: None,
    };
    VirtualHost {
        name: name.clone(),
        domains: vec![domain.into()],
        require_tls: RequireTls::None,
        routes: paths.into_iter().enumerate().map(route).collect(),
    }
}

/// What section 6 says, with no thought for speed.
fn reference(domains: &[String], authority: &str) -> Option<String> {
    let host = authority.to_ascii_lowercase();
    let longest = |fits: &dyn Fn(&str) -> bool| {
        domains.iter().filter(|domain| fits(domain)).max_by_key(|domain| domain.len()).cloned()
    };
    longest(&|domain| domain == host && domain != "*")
        .or_else(|| {
            longest(&|domain| {
                domain.len() > 1
                    && domain.starts_with('*')
                    && host.len() > domain.len() - 1
                    && host.ends_with(&domain[1..])
            })
        })
        .or_else(|| {
            longest(&|domain| {
                domain.len() > 1
                    && domain.ends_with('*')
                    && host.len() > domain.len() - 1
                    && host.starts_with(&domain[..domain.len() - 1])
            })
        })
        .or_else(|| longest(&|domain| domain == "*"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn virtual_host_lookup_agrees_with_the_reference(
        domains in proptest::collection::hash_set("\\*|(\\*)?[ab.]{1,6}|[ab.]{1,6}(\\*)?", 1..20),
        hosts in proptest::collection::vec("[abAB.]{0,8}", 1..30),
        gone in 0..10usize,
    ) {
        let domains: Vec<String> = domains.into_iter().collect();
        let mut table = RouteTable::empty("t");
        let virtual_hosts = domains.iter().map(|domain| virtual_host(domain, Vec::new()));
        let ids: Vec<_> = virtual_hosts.map(|host| table.insert(host).unwrap()).collect();
        // Some go, of which the version before them knows nothing.
        let (before, left) = (table.clone(), &domains[gone.min(domains.len())..]);
        ids.iter().take(gone).for_each(|id| table.remove(*id));
        for (table, domains) in [(before, &*domains), (table, left)] {
            for host in &hosts {
                let found = table.virtual_host(&Request::to(host, "/")).map(str::to_owned);
                prop_assert_eq!(found, reference(domains, host), "{}", host);
            }
        }
    }

    #[test]
    fn path_matching_agrees_with_the_reference(
        criteria in proptest::collection::vec((0..3usize, "/[ab/]{0,3}", proptest::bool::ANY), 1..6),
        paths in proptest::collection::vec("/[abAB/]{0,5}(\\?[ab]{0,2})?", 1..20),
    ) {
        let criteria: Vec<_> = criteria
            .into_iter()
            .map(|(kind, text, case)| {
                let text = if kind == 2 { format!("{text}a") } else { text };
                (kind, text, case)
            })
            .collect();
        let matchers = criteria.iter().map(|(kind, text, case_sensitive)| {
            let (text, case_sensitive) = (text.as_bytes().into(), *case_sensitive);
            match kind {
                0 => PathMatcher::Prefix { text, case_sensitive },
                1 => PathMatcher::Exact { text, case_sensitive },
                _ => PathMatcher::SeparatedPrefix { text, case_sensitive },
            }
        });
        let table =
            RouteTable::new("t", vec![virtual_host("*", matchers.collect())], false).unwrap();
        for path in paths {
            let expected = criteria.iter().position(|(kind, text, case)| {
                let path = path.split('?').next().unwrap();
                let fold = |text: &str| if *case { text.to_owned() } else { text.to_lowercase() };
                let (path, text) = (fold(path), fold(text));
                match kind {
                    0 => path.starts_with(&text),
                    1 => path == text,
                    _ => path == text || path.starts_with(&format!("{text}/")),
                }
            });
            let found = table.find(&Request::to("h", &path), 0);
            prop_assert_eq!(
                found.map(|route| route.name.to_string()),
                expected.map(|index| index.to_string())
            );
        }
    }
}
