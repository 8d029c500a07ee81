//! Equivalent configurations of RPC proxies: one listener, one worker, one service, whose calls go to
//! one upstream. What is off, and what is out of the way, is as in [`super::config`].
//!
//! | | plain | observed |
//! |---|---|---|
//! | MOSN | no access log | its access log to a file, in its default format |
//! | Outrigger | no access log | file access log |
//! | Envoy | its `dubbo_proxy` has no access log | the same |
//!
//! | | upstream |
//! |---|---|
//! | MOSN | calls share one connection, its default; on one core more of them change nothing |
//! | Outrigger | calls share connections, by its defaults |
//! | Envoy | one call at a time on each pooled connection, all it can |
//!
//! MOSN runs on one processor with goroutines for each connection, its default; on one core its event
//! loop (`use_netpoll_mode`) is a tenth slower. The protocol is named, since `Auto` has to find it out.

use std::path::PathBuf;

use super::{
    Profile,
    config::{HOUR_S, Setup, cluster},
};
use crate::rpc::Rpc;

/// Where MOSN's file must be, below the server's directory: it writes into `../logs`.
pub(super) fn mosn_path(setup: &Setup<'_>) -> PathBuf {
    setup.directory.join("conf/mosn.json")
}

/// MOSN's configuration file.
pub(super) fn mosn(setup: &Setup<'_>, rpc: Rpc) -> String {
    let Setup { listen, origin, directory, profile, .. } = setup;
    let (protocol, service) = (rpc.name(), rpc.service());
    let log = match profile {
        Profile::Plain => String::new(),
        Profile::Observed => {
            format!(
                "\n      \"access_logs\": [{{ \"log_path\": \"{}/access.log\" }}],",
                directory.display()
            )
        }
    };
    format!(
        r#"{{
  "disable_upgrade": true,
  "pid": "{directory}/mosn.pid",
  "servers": [{{
    "default_log_path": "stdout",
    "default_log_level": "ERROR",
    "processor": 1,
    "routers": [{{
      "router_config_name": "all",
      "virtual_hosts": [{{
        "name": "all",
        "domains": ["*"],
        "routers": [{{
          "match": {{ "headers": [{{ "name": "service", "value": "{service}" }}] }},
          "route": {{ "cluster_name": "origin", "timeout": "60s" }}
        }}]
      }}]
    }}],
    "listeners": [{{
      "name": "downstream",
      "address": "{listen}",
      "bind_port": true,
      "connection_idle_timeout": "{HOUR_S}s",{log}
      "filter_chains": [{{
        "filters": [{{
          "type": "proxy",
          "config": {{
            "downstream_protocol": "{protocol}",
            "upstream_protocol": "{protocol}",
            "router_config_name": "all"
          }}
        }}]
      }}]
    }}]
  }}],
  "cluster_manager": {{
    "clusters": [{{
      "name": "origin",
      "type": "SIMPLE",
      "lb_type": "LB_ROUNDROBIN",
      "hosts": [{{ "address": "{origin}" }}]
    }}]
  }}
}}
"#,
        directory = directory.display()
    )
}

/// An Envoy v3 bootstrap with its Dubbo proxy.
pub(super) fn envoy(setup: &Setup<'_>) -> String {
    let filter = format!(
        r#"envoy.filters.network.dubbo_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.dubbo_proxy.v3.DubboProxy
          stat_prefix: downstream
          protocol_type: Dubbo
          serialization_type: Hessian2
          multiple_route_config:
            name: all
            route_config:
            - name: all
              interface: {service}
              routes:
              - match: {{ method: {{ name: {{ safe_regex: {{ regex: ".*" }} }} }} }}
                route: {{ cluster: origin }}"#,
        service = Rpc::Dubbo.service()
    );
    bootstrap(setup, &filter)
}

/// The same with the filter that only Outrigger has.
pub(super) fn outrigger(setup: &Setup<'_>, rpc: Rpc) -> String {
    let log = match setup.profile {
        Profile::Plain => String::new(),
        Profile::Observed => format!(
            r#"
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {}/access.log"#,
            setup.directory.display()
        ),
    };
    let filter = format!(
        r#"outrigger.filters.network.rpc_proxy
        typed_config:
          "@type": type.googleapis.com/outrigger.filters.network.rpc_proxy.v1.RpcProxy
          stat_prefix: downstream
          {protocol}: {{}}
          idle_timeout: {HOUR_S}s{log}
          route_config:
            name: all
            routes:
            - match: {{ service: {{ exact: "{service}" }} }}
              route: {{ cluster: origin, timeout: 60s }}"#,
        protocol = rpc.name(),
        service = rpc.service()
    );
    bootstrap(setup, &filter)
}

/// A bootstrap with one listener, of which `filter` is the last network filter, and the cluster.
fn bootstrap(setup: &Setup<'_>, filter: &str) -> String {
    let (address, port) = (setup.listen.ip(), setup.listen.port());
    format!(
        r"static_resources:
  listeners:
  - name: downstream
    address:
      socket_address: {{ address: {address}, port_value: {port} }}
    filter_chains:
    - filters:
      - name: {filter}
{}",
        cluster(setup, "")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        target::config::tests::of,
        variant::ProtocolName::{Bolt, Dubbo},
    };

    #[test]
    fn mosn_text() {
        let text = mosn(&of(Bolt, Profile::Plain), Rpc::Bolt);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let listener = &json["servers"][0]["listeners"][0];
        assert_eq!(listener["address"], "127.0.0.1:1000");
        assert_eq!(
            listener["filter_chains"][0]["filters"][0]["config"]["downstream_protocol"],
            "bolt"
        );
        assert!(listener.get("access_logs").is_none());
        assert_eq!(json["cluster_manager"]["clusters"][0]["hosts"][0]["address"], "127.0.0.1:2000");
        let text = mosn(&of(Dubbo, Profile::Observed), Rpc::Dubbo);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let listener = &json["servers"][0]["listeners"][0];
        assert_eq!(listener["access_logs"][0]["log_path"], "/dir/access.log");
    }

    #[test]
    fn texts_name_the_service() {
        let setup = of(Dubbo, Profile::Plain);
        assert!(envoy(&setup).contains("interface: com.foo.Hello\n"));
        for (rpc, service) in [(Rpc::Bolt, "com.foo.Hello:1.0"), (Rpc::Dubbo, "com.foo.Hello")] {
            let text = outrigger(&setup, rpc);
            let line = format!("match: {{ service: {{ exact: \"{service}\" }} }}");
            assert!(text.contains(&line), "{text}");
            assert!(text.contains(&format!("{}: {{}}", rpc.name())), "{text}");
        }
    }
}
