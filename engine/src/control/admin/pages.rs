//! The list of pages, and those too small for a file of their own.

use std::collections::BTreeSet;

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::page::{Answer, Ask, Page};
use super::stats::Memory;
use super::{certificates, clusters, config, stats};
use crate::control::hand_over;
use crate::control::state::{Command, Lifecycle, NotTaken};
use crate::logging::{self, ComponentLevel, ComponentLevelError, Level};

/// Every page, sorted by path.
pub(super) const PAGES: &[Page] = &[
    Page {
        path: "/",
        help: "Admin home page",
        parameters: &[],
        changes: false,
        render: |_| Answer::new("text/html; charset=UTF-8", home()),
    },
    Page {
        path: "/certs",
        help: "print certs on machine",
        parameters: &[],
        changes: false,
        render: certificates::certs,
    },
    Page {
        path: "/clusters",
        help: "upstream cluster status",
        parameters: &[
            ("filter", "Regular expression for filtering clusters by name"),
            ("format", "File format to use; One of (text, json)"),
        ],
        changes: false,
        render: clusters::clusters,
    },
    Page {
        path: "/config_dump",
        help: "dump current configs",
        parameters: &[
            ("include_eds", "Dump endpoints as well"),
            ("mask", "Dump only these fields of each message: paths with dots, after commas"),
            ("name_regex", "Dump only resources whose names hold a match"),
            ("resource", "Dump only this list, such as dynamic_active_clusters"),
        ],
        changes: false,
        render: config::config_dump,
    },
    Page {
        path: "/drain_listeners",
        help: "drain listeners",
        parameters: &[
            ("graceful", "Ask connections to go, and close the listeners after the drain time"),
            ("inboundonly", "Drain only listeners whose traffic_direction is INBOUND"),
            ("skip_exit", "With graceful: leave the listeners open"),
        ],
        changes: true,
        render: drain_listeners,
    },
    Page {
        path: "/healthcheck/fail",
        help: "cause the server to fail health checks",
        parameters: &[],
        changes: true,
        render: |ask| acknowledge(ask.state.fail_health_checks(true)),
    },
    Page {
        path: "/healthcheck/ok",
        help: "cause the server to pass health checks",
        parameters: &[],
        changes: true,
        render: |ask| acknowledge(ask.state.fail_health_checks(false)),
    },
    Page {
        path: "/help",
        help: "print out list of admin commands",
        parameters: &[],
        changes: false,
        render: |_| Answer::text(StatusCode::OK, help_text()),
    },
    Page {
        path: "/hot_restart_version",
        help: "print the hot restart compatibility version",
        parameters: &[],
        changes: false,
        render: |_| Answer::text(StatusCode::OK, "disabled"),
    },
    Page {
        path: "/init_dump",
        help: "dump what a start waits for",
        parameters: &[],
        changes: false,
        render: config::init_dump,
    },
    Page {
        path: "/listeners",
        help: "print listener info",
        parameters: &[("format", "File format to use; One of (text, json)")],
        changes: false,
        render: config::listeners,
    },
    Page {
        path: "/logging",
        help: "query logging levels (GET) or change them (POST)",
        parameters: &[
            ("level", "desired logging level, this will change all components' level"),
            ("paths", "change several: <component>:<level>,<component>:<level>"),
            ("<component>", "change one component to the given level"),
        ],
        changes: false,
        render: logging_levels,
    },
    Page {
        path: "/memory",
        help: "print current allocation/heap usage",
        parameters: &[],
        changes: false,
        render: memory,
    },
    Page {
        path: "/quitquitquit",
        help: "exit the server",
        parameters: &[],
        changes: true,
        render: |ask| acknowledge(ask.state.command(Command::Quit)),
    },
    Page {
        path: "/ready",
        help: "print server state, return 200 if LIVE, otherwise return 503",
        parameters: &[],
        changes: false,
        render: ready,
    },
    Page {
        path: "/reopen_logs",
        help: "reopen log files",
        parameters: &[],
        changes: true,
        render: |ask| {
            ask.state.reopen_logs();
            Answer::ok()
        },
    },
    Page {
        path: "/reset_counters",
        help: "reset all counters to zero",
        parameters: &[],
        changes: true,
        render: |ask| {
            ask.state.registry().reset_counters();
            Answer::ok()
        },
    },
    Page {
        path: "/runtime",
        help: "print runtime values",
        parameters: &[],
        changes: false,
        render: runtime,
    },
    Page {
        path: "/runtime_modify",
        help: "Adds or modifies runtime values as passed in query parameters",
        parameters: &[("<key>", "its value from now on; empty: as without this layer")],
        changes: true,
        render: runtime_modify,
    },
    Page {
        path: "/server_info",
        help: "print server version/status information",
        parameters: &[],
        changes: false,
        render: config::server_info,
    },
    Page {
        path: "/stats",
        help: "print server stats",
        parameters: &[
            ("usedonly", "Only include stats that are not zero"),
            ("filter", "Regular expression for filtering stats"),
            ("invert_filter", "Invert the filter regex"),
            ("format", "Format to use; One of (text, json, prometheus)"),
            (
                "type",
                "Stat types to include.; One of (All, Counters, Histograms, Gauges, TextReadouts)",
            ),
        ],
        changes: false,
        render: stats::stats,
    },
    Page {
        path: "/stats/prometheus",
        help: "print server stats in prometheus format",
        parameters: &[
            ("usedonly", "Only include stats that are not zero"),
            ("filter", "Regular expression for filtering stats"),
            ("invert_filter", "Invert the filter regex"),
        ],
        changes: false,
        render: stats::prometheus_stats,
    },
    Page {
        path: "/upgrade",
        help: "print who serves, and which predecessors still drain",
        parameters: &[],
        changes: false,
        render: hand_overs,
    },
];

/// All pages with their parameters, as text.
pub(super) fn help_text() -> String {
    let mut help = "admin commands are:\n".to_owned();
    for Page { path, help: what, parameters, changes, .. } in PAGES {
        let post = if *changes { " (POST)" } else { "" };
        help.push_str(&format!("  {path}{post}: {what}\n"));
        for (name, meaning) in *parameters {
            help.push_str(&format!("      {name}: {meaning}\n"));
        }
    }
    help
}

/// All pages as HTML: a link for what reads, a button for what changes something.
fn home() -> String {
    let mut rows = String::new();
    for Page { path, help, changes, .. } in PAGES {
        let path = if *path == "/" { continue } else { &path[1..] };
        let action = if *changes {
            format!("<form action='{path}' method='post'><button>{path}</button></form>")
        } else {
            format!("<a href='{path}'>{path}</a>")
        };
        rows.push_str(&format!("<tr><td>{action}</td><td>{help}</td></tr>\n"));
    }
    format!(
        "<!DOCTYPE html>\n<html lang='en'>\n<head><title>Outrigger Admin</title>\n\
         <style>body {{ font-family: sans-serif }} td {{ padding: 4px }} form {{ margin: 0 }}</style>\n\
         </head>\n<body><table>\n{rows}</table></body>\n</html>\n"
    )
}

/// Every layer's value of every key, and which is in force.
fn runtime(ask: &Ask<'_>) -> Answer {
    let layers = ask
        .state
        .runtime()
        .map(outrigger_xds::process_config::RuntimeLayers::layers)
        .unwrap_or_default();
    let keys: BTreeSet<&String> = layers.iter().flat_map(|(_, values)| values.keys()).collect();
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        // Numbers of a structure are all floating, but 10 is not 10.0.
        Value::Number(number) => number.as_f64().unwrap_or_default().to_string(),
        other => other.to_string(),
    };
    let entries = keys.into_iter().map(|key| {
        let values: Vec<String> = layers
            .iter()
            .map(|(_, values)| values.get(key).map(&text).unwrap_or_default())
            .collect();
        let last = values.iter().rev().find(|value| !value.is_empty());
        let last = last.cloned().unwrap_or_default();
        (key.clone(), json!({"layer_values": values, "final_value": last}))
    });
    let entries: Map<String, Value> = entries.collect();
    let names: Vec<&str> = layers.iter().map(|(name, _)| &**name).collect();
    Answer::json(&json!({"layers": names, "entries": entries}))
}

fn runtime_modify(ask: &Ask<'_>) -> Answer {
    if ask.parameters().is_empty() {
        return Answer::bad_request(RUNTIME_USAGE);
    }
    let is_done = ask.state.runtime().is_some_and(|runtime| runtime.modify(ask.parameters()));
    if is_done {
        Answer::ok()
    } else {
        Answer::text(StatusCode::SERVICE_UNAVAILABLE, "No admin layer specified\n")
    }
}

fn drain_listeners(ask: &Ask<'_>) -> Answer {
    let (graceful, skip_exit) = (ask.flag("graceful"), ask.flag("skip_exit"));
    if skip_exit && !graceful {
        return Answer::bad_request("skip_exit requires graceful\n");
    }
    let inbound_only = ask.flag("inboundonly");
    acknowledge(ask.state.command(Command::DrainListeners { graceful, inbound_only, skip_exit }))
}

fn acknowledge(taken: Result<(), NotTaken>) -> Answer {
    match taken {
        Ok(()) => Answer::ok(),
        Err(error) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

fn ready(ask: &Ask<'_>) -> Answer {
    let lifecycle = ask.state.lifecycle();
    let status = match lifecycle {
        Lifecycle::Live => StatusCode::OK,
        Lifecycle::Draining | Lifecycle::PreInitializing | Lifecycle::Initializing => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    Answer::text(status, format!("{lifecycle}\n"))
}

/// Envoy's fields as far as the kernel knows them: there is no page heap to tell about.
fn memory(_: &Ask<'_>) -> Answer {
    let Memory { resident, anonymous } = Memory::now();
    Answer::json(&json!({
        "allocated": anonymous.to_string(),
        "heap_size": anonymous.to_string(),
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": resident.to_string(),
    }))
}

fn hand_overs(ask: &Ask<'_>) -> Answer {
    match ask.state.hand_overs() {
        Some(view) => Answer::json(&hand_over::to_json(&view.status())),
        None => Answer::text(StatusCode::NOT_FOUND, "engine.upgrade is not configured\n"),
    }
}

fn logging_levels(ask: &Ask<'_>) -> Answer {
    if !ask.parameters().is_empty() {
        if !ask.is_post {
            return Answer::method_not_allowed(&ask.method);
        }
        // All of it, or nothing.
        match wanted_levels(ask.parameters()) {
            Ok(changes) => changes.into_iter().for_each(Change::apply),
            Err(error) => return Answer::bad_request(format!("error: {error}\n\n{LOGGING_USAGE}")),
        }
    }
    let mut body = "active loggers:\n".to_owned();
    for (component, level) in logging::levels() {
        body.push_str(&format!("  {component}: {level}\n"));
    }
    body.push('\n');
    Answer::text(StatusCode::OK, body)
}

enum Change {
    All(Level),
    One(ComponentLevel),
}

impl Change {
    fn apply(self) {
        match self {
            Change::All(level) => logging::set_all(level),
            Change::One(component) => logging::set(component),
        }
    }
}

fn wanted_levels(parameters: &[(String, String)]) -> Result<Vec<Change>, ComponentLevelError> {
    let mut changes = Vec::new();
    for (name, value) in parameters {
        match name.as_str() {
            "level" => changes.push(Change::All(value.parse()?)),
            "paths" => {
                for pair in value.split(',').filter(|pair| !pair.is_empty()) {
                    changes.push(Change::One(pair.parse()?));
                }
            }
            component => {
                changes.push(Change::One(ComponentLevel::new(component, value.parse()?)?));
            }
        }
    }
    Ok(changes)
}

const RUNTIME_USAGE: &str = "\
usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN
use an empty value to remove a previously added override
";

const LOGGING_USAGE: &str = "\
usage: /logging?<name>=<level> (change single level)
usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)
usage: /logging?level=<level> (change all levels)
levels: trace debug info warning error critical off
";
