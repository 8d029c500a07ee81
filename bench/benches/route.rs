//! Finding a route among 10 and among 10,000 virtual hosts, and adding a virtual host to them.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use outrigger_xds::bootstrap::{LoadOptions, Source, load};
use outrigger_xds::snapshot::{RequestView, RequireTls, RouteTable, Terminal, VirtualHost};
use outrigger_xds::source::Format;

struct Get<'a> {
    authority: &'a str,
    path: &'a str,
}

impl RequestView for Get<'_> {
    fn method(&self) -> &[u8] {
        b"GET"
    }
    fn scheme(&self) -> &[u8] {
        b"http"
    }
    fn authority(&self) -> &[u8] {
        self.authority.as_bytes()
    }
    fn path_and_query(&self) -> &[u8] {
        self.path.as_bytes()
    }
    fn is_internal(&self) -> bool {
        false
    }
    fn header_values<'a>(&'a self, _name: &str) -> impl Iterator<Item = &'a [u8]> {
        std::iter::empty()
    }
}

fn table(hosts: usize) -> Arc<RouteTable> {
    let mut yaml = String::from(
        r#"
static_resources:
  clusters:
  - name: c
    load_assignment: {cluster_name: c}
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: h
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
"#,
    );
    for host in 0..hosts {
        let line = writeln!(
            yaml,
            "            - {{name: v{host}, domains: [service-{host}.example, \
             \"*.service-{host}.example\"], routes: [{{match: {{path: /health}}, \
             direct_response: {{status: 200}}}}, {{match: {{prefix: /}}, route: {{cluster: c}}}}]}}"
        );
        line.expect("writing to a string can't fail");
    }
    let loaded = load(&Source::text("bench", yaml, Format::Yaml), &LoadOptions::default())
        .expect("the configuration is valid");
    let chain = loaded.snapshot.listeners[0].filter_chains.iter().next().expect("there is one");
    match &chain.terminal {
        Terminal::Http(http) => Arc::clone(http.routes.inline().expect("routes in the listener")),
        _ => unreachable!("the configuration has an HTTP filter"),
    }
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for hosts in [10, 10_000] {
        let table = table(hosts);
        let exact = format!("service-{}.example:8080", hosts / 2);
        let suffix = format!("eu.service-{}.example", hosts / 2);
        for (name, authority) in [("exact", &exact), ("suffix", &suffix)] {
            group.bench_function(format!("{name} among {hosts} hosts"), |bencher| {
                let request = Get { authority, path: "/api/v1/accounts/42?expand=all" };
                bencher.iter(|| table.find(black_box(&request), 0).is_some());
            });
        }
    }
    group.finish();
}

fn addition(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route table");
    for hosts in [10, 10_000] {
        let table = table(hosts);
        let host = VirtualHost {
            name: "new".into(),
            domains: vec!["new.example".into(), "*.new.example".into()],
            require_tls: RequireTls::None,
            routes: Vec::new(),
        };
        group.bench_function(format!("a virtual host more among {hosts}"), |bencher| {
            bencher.iter(|| {
                let mut next = RouteTable::clone(&table);
                next.insert(black_box(host.clone())).expect("nobody has its domains");
                next
            });
        });
    }
    group.finish();
}

criterion_group!(benches, lookup, addition);
criterion_main!(benches);
