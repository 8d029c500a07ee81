//! A route lookup allocates nothing, and does not grow with the number of virtual hosts.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/request.rs"]
mod request;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use outrigger_xds::snapshot::{
    HeaderName, HeaderValueExtractor, RouteAction, RouteTable, ScopeElement, ScopeKeyBuilder,
    ScopeMap, Target,
};
use request::Request;
use serde_json::{Value, json};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system allocator as it is; the counter is a plain cell of the
// thread and allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, and the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn routes() -> Value {
    json!([
        { "name": "regex", "match": { "safe_regex": { "regex": "/r/[a-z]+/[0-9]{1,3}" } }, "route": { "cluster": "app" } },
        {
            "name": "headers",
            "match": {
                "prefix": "/h",
                "case_sensitive": false,
                "headers": [
                    { "name": "x-one", "string_match": { "prefix": "AB", "ignore_case": true } },
                    { "name": "x-two", "string_match": { "safe_regex": { "regex": "a,b.*" } } },
                    { "name": "x-two", "string_match": { "contains": "b,c" } },
                    { "name": "x-three", "range_match": { "start": 1, "end": 9 } },
                    { "name": "x-four", "present_match": false },
                ],
                "query_parameters": [{ "name": "q", "string_match": { "suffix": "z" } }],
                "runtime_fraction": { "default_value": { "numerator": 100 } },
            },
            "route": { "weighted_clusters": { "clusters": [{ "name": "app", "weight": 1 }] } },
        },
        { "name": "rest", "match": { "path_separated_prefix": "/p" }, "route": { "cluster": "app" } },
    ])
}

fn table(hosts: usize, routes: &Value) -> Arc<RouteTable> {
    let hosts: Vec<Value> = (0..hosts)
        .map(|index| {
            let domains = json!([
                format!("service-{index}.shop.example.com"),
                format!("*.zone-{index}.example.com"),
                format!("p{index}.*"),
            ]);
            json!({ "name": format!("h{index}"), "domains": domains, "routes": routes })
        })
        .collect();
    let loaded = loaded(&set(&http(), &format!("{TABLE}/virtual_hosts"), json!(hosts)));
    Arc::clone(common::table(hcm(&loaded)))
}

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

const HEADERS: &[(&str, &str)] =
    &[("x-one", "abc"), ("x-two", "a"), ("x-two", "b"), ("x-two", "c"), ("x-three", "8")];

#[test]
fn a_lookup_allocates_nothing() {
    let table = table(20, &routes());
    for authority in ["service-7.shop.example.com", "Deep.In.Zone-7.Example.COM", "p7.org"] {
        for (path, name) in
            [("/r/abc/12?x", "regex"), ("/H/x?a=b&q=yz", "headers"), ("/p/x", "rest")]
        {
            let request = Request::to(authority, path).with(HEADERS);
            let mut found = None;
            let count = allocations(|| {
                for random in 0..100 {
                    found = table.find(&request, random);
                    if let Some(Target::Weighted(weighted)) =
                        found.and_then(|route| match &route.action {
                            RouteAction::Forward(forward) => Some(&forward.target),
                            _ => None,
                        })
                    {
                        assert!(weighted.pick(random).target.is_ok());
                    }
                }
            });
            let found = found.unwrap_or_else(|| panic!("{authority}{path}"));
            assert_eq!((&*found.name, &*found.virtual_host), (name, "h7"));
            assert_eq!(count, 0, "{authority}{path}");
        }
    }
}

#[test]
fn a_scope_is_found_without_allocating() {
    let extractor = |element| HeaderValueExtractor {
        header: HeaderName::new("x-one"),
        separator: ";".into(),
        element,
    };
    let keyed = ScopeElement::Keyed { separator: "=".into(), key: "tenant".into() };
    let builder = ScopeKeyBuilder([extractor(ScopeElement::Index(0)), extractor(keyed)].into());
    let key = |number: usize| ["scope".into(), format!("tenant-{number}").into()].into();
    let map = ScopeMap::new((0..1000).map(|at| (key(at), Arc::new(RouteTable::empty("")))));
    let request = Request::to("host", "/").with(&[("x-one", "scope;a=b;tenant=tenant-7")]);
    let mut found = None;
    assert_eq!(allocations(|| found = map.find(&builder, &request)), 0);
    assert_eq!(found.map(|(number, _)| number), Some(7));
}

/// Times are compared within one run, best of many, so that a busy machine does not decide.
#[test]
fn ten_thousand_virtual_hosts_are_looked_up_as_fast_as_ten() {
    let routes = json!([{ "match": { "prefix": "/" }, "route": { "cluster": "app" } }]);
    let (few, many) = (table(10, &routes), table(10_000, &routes));
    let best = |table: &RouteTable, hosts: usize| {
        let requests: Vec<Request> = (0..64)
            .map(|n| Request::to(&format!("service-{}.shop.example.com", n * 7919 % hosts), "/p"))
            .collect();
        (0..200)
            .map(|_| {
                let start = Instant::now();
                for request in &requests {
                    assert!(table.virtual_host(std::hint::black_box(request)).is_some());
                }
                start.elapsed()
            })
            .min()
            .unwrap_or(Duration::MAX)
    };
    let (few, many) = (best(&few, 10), best(&many, 10_000));
    assert!(many <= few * 2 + Duration::from_micros(2), "{few:?} for 10, {many:?} for 10,000");
}
