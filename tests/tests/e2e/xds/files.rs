//! Configuration from files: read when they are moved into place (section 1 of the subset). These
//! need no management server.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, mpsc};

use outrigger_tests::config::{CORS, FAULT, TCP_PROXY};
use outrigger_tests::control_plane::{
    CDS, ECDS, EDS, LDS, RDS, assignment, dynamic, eds_cluster, http_listener, rds, route_table,
    static_cluster, to_cluster,
};
use outrigger_tests::http::Fault;
use outrigger_tests::process::Scratch;
use outrigger_tests::{Address, Client, Config, Launch, Origin, PATIENCE, Proxy, eventually};
use serde_json::{Value, json};

use super::filters::{fault, proxy_to};
use super::protocol::bad_cluster;
use super::reconnect::saying;
use super::{await_answer, await_listener, launch, named_origin};
use crate::hand_over::{expect_end, succeed, upgradable};

/// A directory with a file for each type.
struct Files(Scratch);

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.0.file(&format!("{name}.json"))
    }

    /// Moves a `DiscoveryResponse` of these resources into place.
    fn put(&self, name: &str, type_url: &str, version: &str, resources: &[Value]) {
        let typed = resources.iter().map(|resource| {
            let mut typed = resource.clone();
            typed["@type"] = type_url.into();
            typed
        });
        let typed: Vec<Value> = typed.collect();
        self.put_text(name, &json!({"version_info": version, "resources": typed}).to_string());
    }

    fn put_text(&self, name: &str, text: &str) {
        let new = self.0.file("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.path(name)).unwrap();
    }

    fn source(&self, name: &str) -> Value {
        source(&self.path(name))
    }
}

fn source(path: &Path) -> Value {
    json!({"resource_api_version": "V3", "path_config_source": {"path": path}})
}

#[track_caller]
fn expect_origin(proxy: &Proxy, target: &str, origin: &str) {
    await_answer(proxy, "main", target, origin, |response| {
        response.header("x-origin") == Some(origin)
    });
}

#[test]
fn files_are_read_again_when_they_are_moved_into_place() {
    let files = Files(Scratch::new());
    let (a, b) = (named_origin("a"), named_origin("b"));
    files.put("cds", CDS, "1", &[eds_cluster("a", files.source("eds"))]);
    files.put("eds", EDS, "1", &[assignment("a", &[a.address()])]);
    files.put("lds", LDS, "1", &[http_listener("main", &rds("routes", files.source("rds")))]);
    files.put("rds", RDS, "1", &[route_table("routes", json!([to_cluster("a")]))]);
    // No server is ever asked.
    let config = dynamic(
        &Address::port(1),
        json!({"cds_config": files.source("cds"), "lds_config": files.source("lds")}),
    );
    let proxy = launch(&config).start();
    expect_origin(&proxy, "/", "a");
    files.put("eds", EDS, "2", &[assignment("a", &[b.address()])]);
    expect_origin(&proxy, "/", "b");
    let clusters =
        [eds_cluster("a", files.source("eds")), static_cluster("static", &[a.address()])];
    files.put("cds", CDS, "2", &clusters);
    files.put("rds", RDS, "2", &[route_table("routes", json!([to_cluster("static")]))]);
    expect_origin(&proxy, "/", "a");
    assert!(proxy.admin_get("/stats").text().contains("cluster_manager.cds.version_text: \"2\""));

    // What is wrong changes nothing, and is counted.
    files.put_text("rds", "{\"resources\": [");
    proxy.await_stat("http.main.rds.routes.update_failure", |count| count >= 1);
    let rejected = |name: &str| proxy.await_stat(name, |count| count >= 1);
    files.put("cds", CDS, "bad", &[clusters[0].clone(), clusters[1].clone(), bad_cluster("bad")]);
    rejected("cluster_manager.cds.update_rejected");
    files.put("lds", LDS, "bad", &[json!({"name": "main"})]);
    rejected("listener_manager.lds.update_rejected");
    expect_origin(&proxy, "/", "a");
    files.put("rds", RDS, "3", &[saying("good again")]);
    await_answer(&proxy, "main", "/", "good again", |response| response.text() == "good again");
    // What is gone is not there to be read: all stays.
    fs::remove_file(files.path("rds")).unwrap();
    await_answer(&proxy, "main", "/", "good again", |response| response.text() == "good again");
    files.put("rds", RDS, "4", &[saying("back")]);
    await_answer(&proxy, "main", "/", "back", |response| response.text() == "back");
}

#[test]
fn filters_by_name_come_from_files_too() {
    let files = Files(Scratch::new());
    let (a, b) = (named_origin("a"), named_origin("b"));
    let extension = |name: &str, config: Value| json!({"name": name, "typed_config": config});
    let put = |file: &str, version: &str, extension: Value| {
        files.put(file, ECDS, version, &[extension]);
    };
    let discovery = |file: &str, types: &str| json!({"config_source": files.source(file), "type_urls": [types]});
    // One of HTTP, and the last of a filter chain.
    let mut http = http_listener("main", &rds("routes", files.source("rds")));
    let filters = &mut http["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"];
    let filter = json!({"name": "ext", "config_discovery": discovery("ext", FAULT)});
    filters.as_array_mut().unwrap().insert(0, filter);
    let mut tcp = http_listener("tcp", &json!({}));
    tcp["stat_prefix"] = "tcp".into();
    tcp["filter_chains"][0]["filters"] =
        json!([{"name": "last", "config_discovery": discovery("last", TCP_PROXY)}]);
    files.put("rds", RDS, "1", &[route_table("routes", json!([to_cluster("a")]))]);
    put("ext", "1", extension("ext", fault(418)));
    put("last", "1", extension("last", proxy_to("a")));
    let clusters = [static_cluster("a", &[a.address()]), static_cluster("b", &[b.address()])];
    let config = dynamic(&Address::port(1), json!({}))
        .with(json!({"static_resources": {"listeners": [http, tcp]}}));
    let config = clusters.into_iter().fold(config, Config::raw_cluster);
    let proxy = launch(&config).start();
    let expect = |status: u16| {
        let what = status.to_string();
        await_answer(&proxy, "main", "/", &what, |response| response.status == status);
    };
    let expect_tcp = |origin: &str| {
        await_answer(&proxy, "tcp", "/", origin, |response| {
            response.header("x-origin") == Some(origin)
        });
    };
    expect(418);
    expect_tcp("a");
    let mut client = Client::connect(&await_listener(&proxy, "tcp"));
    assert_eq!(client.get("/").header("x-origin"), Some("a"));
    put("ext", "2", extension("ext", fault(0)));
    put("last", "2", extension("last", proxy_to("b")));
    expect(200);
    expect_tcp("b");
    assert_eq!(client.get("/").header("x-origin"), Some("a"));
    // What is wrong changes nothing, and is counted.
    let counted = |name: &str, count: u64| {
        let root = "extension_config_discovery";
        proxy.await_stat(&format!("{root}.{name}"), |found| found == count);
    };
    put("ext", "3", extension("ext", json!({"@type": CORS})));
    counted("http_filter.ext.update_rejected", 1);
    files.put_text("last", "{");
    counted("network_filter.last.update_failure", 1);
    counted("network_filter.last.config_fail", 1);
    counted("network_filter.last.config_reload", 2);
    expect(200);
    expect_tcp("b");
    put("last", "3", extension("last", proxy_to("a")));
    expect_tcp("a");
}

#[test]
fn a_watched_directory_is_swapped_as_a_whole() {
    // As Kubernetes mounts a ConfigMap: a link to a directory, moved into place.
    let scratch = Scratch::new();
    let swap = |version: &str, word: &str| {
        let directory = scratch.file(version);
        fs::create_dir(&directory).unwrap();
        let mut table = saying(word);
        table["@type"] = RDS.into();
        let text = json!({"version_info": version, "resources": [table]}).to_string();
        fs::write(directory.join("rds.json"), text).unwrap();
        let link = scratch.file("..new");
        std::os::unix::fs::symlink(version, &link).unwrap();
        fs::rename(&link, scratch.file("..data")).unwrap();
    };
    swap("1", "one");
    let mut source = source(&scratch.file("..data").join("rds.json"));
    source["path_config_source"]["watched_directory"] = json!({"path": scratch.path()});
    let listener = http_listener("main", &rds("routes", source));
    let config = dynamic(&Address::port(1), json!({}))
        .with(json!({"static_resources": {"listeners": [listener]}}));
    let proxy = launch(&config).start();
    await_answer(&proxy, "main", "/", "one", |response| response.text() == "one");
    swap("2", "two");
    await_answer(&proxy, "main", "/", "two", |response| response.text() == "two");
}

#[test]
fn a_process_that_drains_follows_its_configuration_to_the_end() {
    let (files, scratch) = (Files(Scratch::new()), Scratch::new());
    // What comes here waits for a word, and is then never answered.
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let silent = Origin::start(move |exchange| {
        exchange.request()?;
        let _ = released.lock().unwrap().recv_timeout(PATIENCE);
        Err(Fault::Closed)
    });
    let b = named_origin("b");
    let mut route = to_cluster("a");
    route["route"]["timeout"] = "30s".into();
    route["route"]["retry_policy"] = json!({
        "retry_on": "reset", "num_retries": 100,
        "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.05s"},
    });
    files.put("cds", CDS, "1", &[eds_cluster("a", files.source("eds"))]);
    files.put("eds", EDS, "1", &[assignment("a", &[silent.address()])]);
    files.put("lds", LDS, "1", &[http_listener("main", &rds("routes", files.source("rds")))]);
    files.put("rds", RDS, "1", &[route_table("routes", json!([route]))]);
    let sources = json!({"cds_config": files.source("cds"), "lds_config": files.source("lds")});
    let config = upgradable(dynamic(&Address::port(1), sources), &scratch);
    let first = Launch::outrigger(&config).start();
    let address = eventually("the listener", || first.current_listener("main"));
    let mut client = Client::connect(&address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    silent.wait_for("the request", |log| log.requests.len() == 1);
    let second = succeed(&config, 1);
    files.put("eds", EDS, "2", &[assignment("a", &[b.address()])]);
    // Its next tries are the first process's own, by what it knows by then.
    drop(release);
    assert_eq!(client.response().header("x-origin"), Some("b"));
    expect_end(first);
    second.stop();
}
