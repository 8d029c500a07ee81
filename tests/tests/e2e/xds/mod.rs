//! Configuration from management servers: real ones that are not ours, over real connections.
//!
//! Each test needs a program that `.ci/run` installs. `OUTRIGGER_TEST_PROXY=envoy` runs them against
//! Envoy; [`is_envoy`] is where we differ on purpose, and says why.

mod cache;
mod differential;
mod faults;
mod files;
mod filters;
mod on_demand;
mod protocol;
mod reconnect;
mod scopes;
mod virtual_hosts;
mod warming;

use outrigger_tests::control_plane::{
    CDS, EDS, LDS, RDS, Variant, World, ads, aggregated, assignment, eds_cluster, http_listener,
    rds, route_table, to_cluster,
};
use outrigger_tests::http::Response;
use outrigger_tests::proxy::Launch;
use outrigger_tests::{Address, Client, Config, ControlPlane, Origin, Proxy, binary, eventually};
use serde_json::{Value, json};

const BOTH: [Variant; 2] = [Variant::Sotw, Variant::Delta];

/// A proxy that has everything from a server: a listener `main`, whose table `routes` sends all to
/// the cluster `a`, with an origin in its load assignment.
struct Scene {
    server: ControlPlane,
    world: World,
    proxy: Proxy,
    a: Origin,
    b: Origin,
    variant: Variant,
}

impl Scene {
    /// With the server that can do everything.
    #[track_caller]
    fn start(variant: Variant) -> Scene {
        Scene::tuned(variant, json!({}), |config| config)
    }

    /// The same with options of the server, and another bootstrap.
    #[track_caller]
    fn tuned(variant: Variant, options: Value, tune: impl FnOnce(Config) -> Config) -> Scene {
        let mut server = ControlPlane::python().listening(options);
        let (a, b) = (named_origin("a"), named_origin("b"));
        let mut world = World::default();
        world.put(CDS, eds_cluster("a", ads())).put(EDS, assignment("a", &[a.address()]));
        world.put(LDS, http_listener("main", &rds("routes", ads())));
        world.put(RDS, route_table("routes", json!([to_cluster("a")])));
        world.publish(&mut server);
        let proxy = launch(&tune(aggregated(server.address(), variant))).start();
        let scene = Scene { server, world, proxy, a, b, variant };
        scene.expect_origin("/", "a");
        scene
    }

    /// Tells the server what has changed.
    #[track_caller]
    fn publish(&mut self) -> String {
        self.world.publish(&mut self.server)
    }

    /// A second cluster, and a route of `/b` to it.
    fn add_b(&mut self) {
        self.world.put(CDS, eds_cluster("b", ads()));
        self.world.put(EDS, assignment("b", &[self.b.address()]));
        self.world.put(
            RDS,
            route_table(
                "routes",
                json!([
                    {"match": {"prefix": "/b"}, "route": {"cluster": "b"}},
                    to_cluster("a"),
                ]),
            ),
        );
    }

    /// Waits until GET of a target is answered by that origin.
    #[track_caller]
    fn expect_origin(&self, target: &str, origin: &str) {
        await_answer(&self.proxy, "main", target, origin, |response| {
            response.header("x-origin") == Some(origin)
        });
    }

    /// Waits until GET of a target is answered with that status.
    #[track_caller]
    fn expect_status(&self, target: &str, status: u16) {
        await_answer(&self.proxy, "main", target, &status.to_string(), |response| {
            response.status == status
        });
    }

    /// Sends a response with these resources and that version, and returns its nonce.
    #[track_caller]
    fn send(&mut self, type_url: &str, version: &str, resources: &[Value]) -> String {
        let response = self.response(type_url, version, resources);
        self.server.send(type_url, response)
    }

    /// A response with these resources, each and the whole with that version.
    fn response(&self, type_url: &str, version: &str, resources: &[Value]) -> Value {
        response(self.variant, type_url, version, resources)
    }
}

/// A response with these resources, each and the whole with that version.
fn response(variant: Variant, type_url: &str, version: &str, resources: &[Value]) -> Value {
    let typed = resources.iter().map(|resource| {
        let mut typed = resource.clone();
        typed["@type"] = type_url.into();
        typed
    });
    match variant {
        Variant::Sotw => json!({"version_info": version, "resources": typed.collect::<Vec<_>>()}),
        Variant::Delta => {
            let wrapped = resources.iter().zip(typed).map(|(resource, typed)| {
                let name = outrigger_tests::control_plane::name_of(resource);
                json!({"name": name, "version": version, "resource": typed})
            });
            let wrapped: Vec<Value> = wrapped.collect();
            json!({"system_version_info": version, "resources": wrapped})
        }
    }
}

/// The proxy under test.
fn launch(config: &Config) -> Launch {
    Launch::outrigger(config).arguments(&["--drain-time-s", "1"])
}

/// Whether Envoy is tested, which does some things differently.
fn is_envoy() -> bool {
    binary::is_envoy_tested()
}

/// An origin that says its name.
fn named_origin(name: &'static str) -> Origin {
    Origin::start(move |peer| {
        loop {
            let request = peer.request()?;
            let host = request.headers.get("host").unwrap_or_default().to_owned();
            let mut body = format!("{name} {} {} {host}", request.method, request.target);
            for (field, value) in request.headers.iter() {
                if field.starts_with("x-added") {
                    body += &format!(" {field}={value}");
                }
            }
            if !request.body.is_empty() {
                body += &format!(" [{}]", request.body.escape_ascii());
            }
            let length = body.len();
            let head =
                format!("HTTP/1.1 200 OK\r\nx-origin: {name}\r\ncontent-length: {length}\r\n\r\n");
            peer.send(if request.method == "HEAD" { head } else { head + &body })?;
        }
    })
}

/// The address of a listener, once there is one of that name.
#[track_caller]
fn await_listener(proxy: &Proxy, name: &str) -> Address {
    eventually(&format!("listener {name}"), || proxy.current_listener(name))
}

/// Waits until GET of a target at a listener, each time on a new connection, is answered as wanted.
#[track_caller]
fn await_answer(
    proxy: &Proxy,
    listener: &str,
    target: &str,
    what: &str,
    condition: impl Fn(&Response) -> bool,
) {
    let mut last = None;
    let start = std::time::Instant::now();
    loop {
        if let Some(address) = proxy.current_listener(listener) {
            let answer = try_get(&address, target);
            if answer.as_ref().is_some_and(&condition) {
                return;
            }
            last = answer;
        }
        let waited = start.elapsed() > outrigger_tests::PATIENCE;
        assert!(!waited, "{listener}{target}: not {what} but {last:?}");
        std::thread::sleep(GLANCE);
    }
}

fn try_get(address: &Address, target: &str) -> Option<Response> {
    let mut client = Client::try_connect(address).ok()?;
    client.try_send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")).ok()?;
    client.try_response().ok()
}

/// Pause between two requests.
const GLANCE: std::time::Duration = std::time::Duration::from_millis(5);
