//! SOAP through the proxy: routes by action and by operation, bodies that are looked at and yet pass
//! untouched, and faults in place of our own errors.

use outrigger_tests::config::{ROUTER, SOAP};
use outrigger_tests::http::Response;
use outrigger_tests::origin::refusing;
use outrigger_tests::{Config, Http2, Launch, Origin, Proxy};
use serde_json::{Value, json};

use crate::basics::pattern;

const V11: &str = "text/xml; charset=utf-8";
const V12: &str = "application/soap+xml; charset=utf-8";

/// An envelope with a header of that many bytes and a call of `operation`.
fn envelope(operation: &str, header_len: usize) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<s:Envelope \
         xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Header><t:Token \
         xmlns:t=\"urn:t\"><s:Body><no/></s:Body>{}</t:Token></s:Header><s:Body><m:{operation} \
         xmlns:m=\"urn:m\"><item/></m:{operation}></s:Body></s:Envelope>",
        "x".repeat(header_len),
    )
}

/// Answers with its name and with what came.
fn service(name: &'static str) -> Origin {
    Origin::start(move |peer| {
        loop {
            let body = peer.request()?.body;
            peer.send(format!(
                "HTTP/1.1 200 OK\r\nx-origin: {name}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            ))?;
            peer.send(body)?;
        }
    })
}

fn filter(options: Value) -> Value {
    let mut soap = json!({"@type": SOAP});
    soap.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    json!({"http_filters": [
        {"name": "soap", "typed_config": soap},
        {"name": "router", "typed_config": {"@type": ROUTER}},
    ]})
}

fn to(cluster: &str, header: &str, value: &str) -> Value {
    json!({
        "match": {"prefix": "/", "headers": [{"name": header, "string_match": {"exact": value}}]},
        "route": {"cluster": cluster},
    })
}

/// Three services: one for an operation and an action, one for another operation, one for the rest.
struct Services {
    orders: Origin,
    prices: Origin,
    others: Origin,
}

impl Services {
    fn start() -> Self {
        Self { orders: service("orders"), prices: service("prices"), others: service("others") }
    }

    fn config(&self, options: Value) -> Config {
        Config::new()
            .cluster("orders", &[self.orders.address()])
            .cluster("prices", &[self.prices.address()])
            .cluster("others", &[self.others.address()])
            .route(to("orders", "x-soap-operation", "placeOrder"))
            .route(to("orders", "x-soap-action", "urn:orders#place"))
            .route(to("prices", "x-soap-operation", "getPrice"))
            .route(json!({"match": {"prefix": "/"}, "route": {"cluster": "others"}}))
            .http(filter(options))
    }
}

fn inspecting() -> Value {
    json!({"match_body": true})
}

/// A request of HTTP/1.1.
fn request(fields: &[(&str, &str)], body: &str) -> String {
    let fields: String =
        fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "POST /service HTTP/1.1\r\nHost: test\r\n{fields}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The same request on both versions of HTTP.
fn ask(proxy: &Proxy, fields: &[(&str, &str)], body: &str) -> [Response; 2] {
    let old = proxy.client().send(request(fields, body)).response();
    let new = proxy.http2().ask("POST", "/service", fields, body.as_bytes());
    [old, new]
}

#[track_caller]
fn expect_served(responses: impl IntoIterator<Item = Response>, origin: &str, body: &str) {
    for response in responses {
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(response.header("x-origin"), Some(origin), "{}", response.version);
        assert!(response.body == body.as_bytes(), "{}: the body changed", response.version);
    }
}

#[track_caller]
fn expect_idle(proxy: &Proxy) {
    proxy.expect_stat("http.main.downstream_rq_active", 0);
}

/// What is told in a fault, and of which version it is.
#[track_caller]
fn fault(response: &Response) -> (&'static str, String, String) {
    let text = response.text();
    let between = |before: &str, after: &str| {
        let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no fault: {text}"));
        rest.split_once(after).unwrap().0.to_owned()
    };
    match response.header("content-type") {
        Some(V11) => (
            "1.1",
            between("<faultcode>soap:", "</faultcode>"),
            between("<faultstring>", "</faultstring>"),
        ),
        Some(V12) => {
            assert!(text.contains("\"http://www.w3.org/2003/05/soap-envelope\""));
            ("1.2", between("<soap:Value>soap:", "</"), between("xml:lang=\"en\">", "</"))
        }
        other => panic!("{other:?}: {text}"),
    }
}

#[test]
fn actions_are_routed() {
    let services = Services::start();
    let proxy = Proxy::start(&services.config(json!({})));
    let body = envelope("getPrice", 0);
    let place = [("content-type", V11), ("soapaction", "\"urn:orders#place\"")];
    expect_served(ask(&proxy, &place, &body), "orders", &body);
    let new = format!("{V12}; action=\"urn:orders#place\"");
    expect_served(ask(&proxy, &[("content-type", new.as_str())], &body), "orders", &body);
    // Bodies are not looked at, and what is not SOAP has no action.
    let other = [("content-type", V11), ("soapaction", "\"urn:other\"")];
    expect_served(ask(&proxy, &other, &body), "others", &body);
    let json = [("content-type", "application/json"), ("soapaction", "\"urn:orders#place\"")];
    expect_served(ask(&proxy, &json, &body), "others", &body);
    proxy.stop();
}

#[test]
fn operations_are_routed() {
    let services = Services::start();
    let proxy = Proxy::start(&services.config(inspecting()));
    let fields_of = |content_type| [("content-type", content_type), ("soapaction", "\"\"")];
    for content_type in [V11, V12] {
        let fields = fields_of(content_type);
        for (operation, origin) in
            [("placeOrder", "orders"), ("getPrice", "prices"), ("cancel", "others")]
        {
            for header_len in [0, 10_000] {
                let body = envelope(operation, header_len);
                expect_served(ask(&proxy, &fields, &body), origin, &body);
            }
        }
        for body in
            ["", "no XML", "<s:Envelope><s:Body>", "<!DOCTYPE a><Envelope><Body><getPrice/>"]
        {
            expect_served(ask(&proxy, &fields, body), "others", body);
        }
    }
    // XML that is not SOAP is not looked at.
    let body = envelope("getPrice", 0);
    expect_served(ask(&proxy, &[("content-type", V11)], &body), "others", &body);
    expect_idle(&proxy);
    proxy.stop();
}

#[test]
fn headers_for_matching_are_not_the_clients() {
    let services = Services::start();
    let proxy = Proxy::start(&services.config(inspecting()));
    let forged = [("x-soap-operation", "getPrice"), ("x-soap-action", "urn:orders#place")];
    expect_served(ask(&proxy, &forged, "x"), "others", "x");
    // What the client sent goes on, and matches nothing.
    let seen = services.others.nth_request(2);
    assert_eq!(seen.headers.all("x-soap-operation"), ["getPrice"]);
    let body = envelope("cancel", 0);
    let fields = [&forged[..], &[("content-type", V11), ("soapaction", "\"urn:x\"")]].concat();
    expect_served(ask(&proxy, &fields, &body), "others", &body);
    // Nor is anything added.
    let body = envelope("getPrice", 0);
    let fields = [("content-type", V11), ("soapaction", "\"urn:x\"")];
    expect_served(ask(&proxy, &fields, &body), "prices", &body);
    for seen in services.prices.log().requests {
        let names: Vec<_> = seen.request.headers.iter().map(|(name, _)| name.to_owned()).collect();
        assert!(!names.iter().any(|name| name.starts_with("x-soap")), "{names:?}");
        assert_eq!(seen.request.headers.get("soapaction"), Some("\"urn:x\""));
    }
    proxy.stop();
}

#[test]
fn bodies_pass_untouched_however_they_come() {
    let services = Services::start();
    let options = json!({"match_body": true, "inspect_timeout": "60s"});
    let proxy = Proxy::start(&services.config(options));
    let fields = [("content-type", V12)];
    let body = envelope("getPrice", 300);
    // Byte by byte, head and body.
    let response = proxy.client().send_bytewise(request(&fields, &body)).response();
    expect_served([response], "prices", &body);
    let client = proxy.http2();
    let mut call = client.open("POST", "/service", &fields, false);
    for byte in body.bytes() {
        call.send([byte]);
    }
    call.finish();
    expect_served([call.response().unwrap()], "prices", &body);
    // In chunks, with more behind than a connection holds.
    let long =
        format!("{body}{}", String::from_utf8_lossy(&pattern(3 << 20)).replace('\u{fffd}', "?"));
    let (front, back) = long.as_bytes().split_at(17);
    let mut old = proxy.client();
    old.send("POST /service HTTP/1.1\r\nHost: test\r\ncontent-type: application/soap+xml\r\n");
    old.send("transfer-encoding: chunked\r\n\r\n11\r\n").send(front).send("\r\n");
    old.send(format!("{:x}\r\n", back.len())).send(back).send("\r\n0\r\n\r\n");
    expect_served([old.response()], "prices", &long);
    let mut call = client.open("POST", "/service", &fields, false);
    call.send(front);
    call.send_whole(back);
    expect_served([call.response().unwrap()], "prices", &long);
    // One request behind the other.
    let mut piped = proxy.client();
    let orders = envelope("placeOrder", 10);
    piped.send(request(&fields, &body) + &request(&fields, &orders) + &request(&fields, &body));
    for (origin, body) in [("prices", &body), ("orders", &orders), ("prices", &body)] {
        expect_served([piped.response()], origin, body);
    }
    expect_idle(&proxy);
    proxy.stop();
}

#[test]
fn trailers_pass_too() {
    let origin = Origin::http2(Http2::default(), |mut exchange| async move {
        let (_, trailers) = exchange.rest().await?;
        let sum = trailers.get("x-sum").unwrap_or("none").to_owned();
        exchange.head(200, &[("x-sum", sum.as_str())], true)
    });
    let config = Config::to_http2(origin.address())
        .http(filter(inspecting()))
        .http(json!({"http_protocol_options": {"enable_trailers": true}}));
    let proxy = Proxy::start(&config);
    // They are there before the route is known, or come after it.
    for body in [envelope("getPrice", 0), envelope("getPrice", 10_000), "<Envelope>".to_owned()] {
        let client = proxy.http2();
        let mut call = client.open("POST", "/", &[("content-type", V12)], false);
        call.send(&body);
        call.finish_with(&[("x-sum", "7")]);
        let new = call.response().unwrap();
        let mut old = proxy.client();
        old.send(format!(
            "POST / HTTP/1.1\r\nHost: test\r\ncontent-type: {V12}\r\ntransfer-encoding: \
             chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\nx-sum: 7\r\n\r\n",
            body.len()
        ));
        for response in [old.response(), new] {
            assert_eq!((response.status, response.header("x-sum")), (200, Some("7")));
        }
    }
    proxy.stop();
}

#[test]
fn inspection_ends_at_its_limit() {
    let services = Services::start();
    let body = envelope("getPrice", 0);
    let place = body.find("<m:getPrice").unwrap() + "<m:getPrice ".len();
    for (limit, origin) in [(place, "prices"), (place - 1, "others")] {
        let options = json!({"match_body": true, "max_inspect_bytes": limit});
        let proxy = Proxy::start(&services.config(options));
        expect_served(ask(&proxy, &[("content-type", V12)], &body), origin, &body);
        proxy.stop();
    }
}

#[test]
fn inspection_ends_in_time() {
    let services = Services::start();
    let options = json!({"match_body": true, "inspect_timeout": "0.2s"});
    let proxy = Proxy::start(&services.config(options));
    let body = envelope("getPrice", 0);
    let (front, back) = body.split_at(40);
    let fields = [("content-type", V12)];
    // The request goes on without its operation, and the rest follows.
    let mut old = proxy.client();
    let whole = request(&fields, &body);
    old.send(&whole[..whole.len() - back.len()]);
    let client = proxy.http2();
    let mut call = client.open("POST", "/service", &fields, false);
    call.send(front);
    proxy.await_stat("cluster.others.upstream_rq_active", |active| active == 2);
    call.send(back);
    call.finish();
    old.send(back);
    expect_served([old.response(), call.response().unwrap()], "others", &body);
    assert_eq!(proxy.stat("cluster.prices.upstream_rq_total"), 0);
    proxy.stop();
}

#[test]
fn a_waiting_request_stops_nobody_else() {
    let services = Services::start();
    let options = json!({"match_body": true, "inspect_timeout": "60s"});
    let proxy = Proxy::start(&services.config(options));
    let client = proxy.http2();
    let fields = [("content-type", V12)];
    let body = envelope("placeOrder", 0);
    let (front, back) = body.split_at(body.len() / 2);
    let mut waiting = client.open("POST", "/service", &fields, false);
    waiting.send(front);
    let gone = client.open("POST", "/service", &fields, false);
    let other = envelope("getPrice", 0);
    for _ in 0..3 {
        let response = client.ask("POST", "/service", &fields, other.as_bytes());
        expect_served([response], "prices", &other);
    }
    assert_eq!(proxy.stat("cluster.orders.upstream_rq_total"), 0);
    // A client that leaves while its request waits leaves nothing behind.
    drop(gone);
    let mut old = proxy.client();
    old.send(&request(&fields, &body)[..200]);
    proxy.await_stat("http.main.downstream_rq_active", |active| active >= 2);
    old.reset();
    waiting.send(back);
    waiting.finish();
    expect_served([waiting.response().unwrap()], "orders", &body);
    drop(client);
    expect_idle(&proxy);
    proxy.stop();
}

#[test]
fn a_client_that_waits_is_told_to_go_on() {
    let services = Services::start();
    for proxied in [false, true] {
        let config = services.config(inspecting()).http(json!({"proxy_100_continue": proxied}));
        let proxy = Proxy::start(&config);
        let body = envelope("getPrice", 0);
        let fields = [("content-type", V12), ("expect", "100-continue")];
        let whole = request(&fields, &body);
        let mut client = proxy.client();
        client.send(&whole[..whole.len() - body.len()]);
        assert_eq!(client.response_head().status, 100);
        client.send(&body);
        expect_served([client.response()], "prices", &body);
        proxy.stop();
    }
}

#[test]
fn local_errors_are_faults() {
    let (_socket, refused) = refusing();
    let silent = Origin::start(outrigger_tests::origin::Peer::stall);
    let by_path = |path: &str, action: Value| {
        let mut route = json!({"match": {"prefix": path}});
        route.as_object_mut().unwrap().extend(action.as_object().unwrap().clone());
        route
    };
    let direct = |status: u16, text: &str| json!({"direct_response": {"status": status, "body": {"inline_string": text}}});
    let mut config = Config::new()
        .cluster("refused", &[&refused])
        .cluster("empty", &[])
        .cluster("silent", &[silent.address()])
        .route(by_path("/refused", json!({"route": {"cluster": "refused"}})))
        .route(by_path("/empty", json!({"route": {"cluster": "empty"}})))
        .route(by_path("/silent", json!({"route": {"cluster": "silent", "timeout": "0.3s"}})))
        .route(by_path("/own", direct(503, "<own/>")))
        .route(by_path("/bare", json!({"direct_response": {"status": 403}})))
        .route(by_path("/fine", direct(200, "fine")))
        .route(by_path("/moved", json!({"redirect": {"path_redirect": "/new"}})));
    for options in [json!({}), inspecting()] {
        config = config.http(filter(options));
        let proxy = Proxy::start(&config);
        for (content_type, version, sender, receiver) in
            [(V11, "1.1", "Client", "Server"), (V12, "1.2", "Sender", "Receiver")]
        {
            let fields = [("content-type", content_type), ("soapaction", "\"urn:a\"")];
            let body = envelope("anything", 0);
            let ask = |path: &str| {
                let text = request(&fields, &body).replacen("/service", path, 1);
                let old = proxy.client().send(text).response();
                [old, proxy.http2().ask("POST", path, &fields, body.as_bytes())]
            };
            for (path, status, side, text) in [
                ("/nowhere", 404, sender, "Not Found"),
                ("/empty", 503, receiver, "no healthy upstream"),
                ("/refused", 503, receiver, "upstream connect error"),
                ("/silent", 504, receiver, "upstream request timeout"),
                ("/bare", 403, sender, "Forbidden"),
            ] {
                for response in ask(path) {
                    assert_eq!(response.status, status, "{path}: {response:?}");
                    let (found, code, reason) = fault(&response);
                    assert_eq!((found, &*code), (version, side), "{path}");
                    assert!(reason.starts_with(text), "{path}: {reason}");
                }
            }
            // What the configuration says in words of its own, and what is no error, is no fault.
            for (path, status, text) in
                [("/own", 503, "<own/>"), ("/fine", 200, "fine"), ("/moved", 301, "")]
            {
                for response in ask(path) {
                    assert_eq!((response.status, &*response.text()), (status, text));
                }
            }
        }
        // Others get what they always got.
        let plain = proxy.client().post("/empty", "x");
        assert_eq!(plain.header("content-type"), Some("text/plain"));
        assert_eq!(plain.text(), "no healthy upstream");
        expect_idle(&proxy);
        proxy.stop();
    }
}

#[test]
fn a_request_that_waits_in_vain_is_told_so_in_a_fault() {
    let services = Services::start();
    let options = json!({"match_body": true, "inspect_timeout": "60s"});
    let config = services.config(options).http(json!({"request_timeout": "0.3s"}));
    let proxy = Proxy::start(&config);
    let fields = [("content-type", V11), ("soapaction", "")];
    let mut old = proxy.client();
    old.send("POST / HTTP/1.1\r\nHost: test\r\ncontent-length: 900\r\n");
    old.send(format!("content-type: {V11}\r\nsoapaction:\r\n\r\n<Envelope>"));
    let client = proxy.http2();
    let mut call = client.open("POST", "/", &fields, false);
    call.send("<Envelope>");
    for response in [old.response(), call.response().unwrap()] {
        assert_eq!(response.status, 408);
        let (_, code, reason) = fault(&response);
        assert_eq!((&*code, &*reason), ("Server", "request timeout"));
    }
    // A body that is cut off by its own framing.
    let mut broken = proxy.client();
    broken.send(format!(
        "POST / HTTP/1.1\r\nHost: test\r\ntransfer-encoding: chunked\r\ncontent-type: {V11}\r\n\
         soapaction: a\r\n\r\n3\r\n<En\r\nnonsense\r\n"
    ));
    let response = broken.response();
    assert_eq!((response.status, fault(&response).0), (400, "1.1"));
    broken.expect_close();
    expect_idle(&proxy);
    proxy.stop();
}

#[test]
fn a_fault_for_a_request_that_was_read_whole_closes_nothing() {
    let config = Config::new()
        .cluster("none", &[])
        .route(to("none", "x-soap-operation", "getPrice"))
        .http(filter(inspecting()));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    // Without an operation, all of the body had to be read.
    let body = "<Envelope><Body>";
    for _ in 0..3 {
        let response = client.send(request(&[("content-type", V12)], body)).response();
        assert_eq!(response.status, 404);
        assert_eq!(response.header("connection"), None);
    }
    proxy.stop();
}

#[test]
fn many_shapes_on_many_shards() {
    let services = Services::start();
    let config = services.config(inspecting());
    let proxy = Launch::outrigger(&config).shards(2).start();
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let proxy = &proxy;
            scope.spawn(move || {
                let (mut old, new) = (proxy.client(), proxy.http2());
                for round in 0..50 {
                    let (operation, origin) =
                        [("getPrice", "prices"), ("placeOrder", "orders")][(thread + round) % 2];
                    let body = envelope(operation, round * 97);
                    let fields = [("content-type", V12)];
                    expect_served([old.send(request(&fields, &body)).response()], origin, &body);
                    let response = new.ask("POST", "/", &fields, body.as_bytes());
                    expect_served([response], origin, &body);
                }
            });
        }
    });
    expect_idle(&proxy);
    proxy.stop();
}
