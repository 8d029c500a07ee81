//! A route lookup allocates nothing, and does not grow with the number of virtual hosts; nor does the
//! work that one more makes.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/request.rs"]
mod request;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use outrigger_xds::client::ResourceType::{RouteConfiguration, VirtualHost};
use outrigger_xds::snapshot::{
    ConfigPlace, HeaderName, HeaderValueExtractor, RouteAction, RouteTable, ScopeElement,
    ScopeKeyBuilder, ScopeMap, Snapshot, Target,
};
use outrigger_xds::store::{Incoming, Store};
use request::Request;
use serde_json::{Value, json};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system allocator as it is; the counters are plain cells of the
// thread and allocate nothing themselves.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        BYTES.with(|bytes| bytes.set(bytes.get() + layout.size()));
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

/// What is allocated for it, in bytes.
fn bytes(work: impl FnOnce()) -> usize {
    let before = BYTES.with(Cell::get);
    work();
    BYTES.with(Cell::get) - before
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

/// A store with a table `t` whose virtual hosts come by VHDS.
struct Hosted(Store);

impl Hosted {
    fn new() -> Hosted {
        let loaded = loaded(&with_rds("DELTA_GRPC"));
        let mut hosted = Hosted(Store::new(loaded.ground, &loaded.snapshot, false));
        let table = json!({"name": "t", "vhds": {"config_source": ads()}});
        let table = hosted.read("envoy.config.route.v3.RouteConfiguration", &[table]);
        hosted.0.put(RouteConfiguration, &ConfigPlace::Ads, &table[0], &mut Nothing).unwrap();
        hosted
    }

    /// Resources as a server sends them.
    fn read(&self, kind: &str, resources: &[Value]) -> Vec<Incoming> {
        let resources = resources.iter().map(|it| any_with(kind, it.clone()));
        let content = json!({"version_info": "1", "resources": resources.collect::<Vec<_>>()});
        let path =
            std::env::temp_dir().join(format!("outrigger-alloc-{}.json", std::process::id()));
        fs::write(&path, content.to_string()).unwrap();
        let read = self.0.read_file(&path).unwrap();
        fs::remove_file(&path).unwrap();
        read.resources.into_iter().map(|(_, incoming)| incoming).collect()
    }

    fn hosts(&self, numbers: std::ops::Range<usize>) -> Vec<Incoming> {
        let hosts = numbers.map(|number| {
            let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]);
            let domains = json!([format!("{number:06}.test"), format!("*.{number:06}.test")]);
            json!({"name": format!("t/{number:06}"), "domains": domains, "routes": routes})
        });
        self.read("envoy.config.route.v3.VirtualHost", &hosts.collect::<Vec<_>>())
    }

    /// Takes a response in that has one virtual host, and what is then to be served.
    fn put(&mut self, host: &Incoming) -> Arc<Snapshot> {
        let (kind, place) = (VirtualHost, ConfigPlace::Ads);
        self.0.expect(kind, &place, std::iter::once(&*host.name));
        self.0.put(kind, &place, host, &mut Nothing).unwrap();
        self.0.answered(kind, &place);
        self.0.take_changes().unwrap().snapshot
    }
}

#[test]
fn a_virtual_host_more_costs_the_same_among_ten_thousand() {
    let cost = |known: usize| {
        let mut hosted = Hosted::new();
        hosted.hosts(0..known).iter().for_each(|host| drop(hosted.put(host)));
        // Maps that double are the exception: what most cost.
        let mut served = hosted.put(&hosted.hosts(known..known + 1)[0]);
        let mut costs: Vec<usize> = hosted
            .hosts(known + 1..known + 64)
            .iter()
            .map(|host| bytes(|| served = hosted.put(host)))
            .collect();
        costs.sort_unstable();
        for number in [0, known, known + 63] {
            let request = Request::to(&format!("{number:06}.test"), "/");
            assert!(served.route_tables["t"].find(&request, 0).is_some());
        }
        costs[costs.len() / 2]
    };
    let (few, many) = (cost(100), cost(10_000));
    assert!(many <= few * 2, "{few} bytes among 100, {many} among 10,000");
}
