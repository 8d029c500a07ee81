//! Where Dubbo has what in ZooKeeper (registries.md section 9). SOFARPC has the same under another
//! root.

use outrigger_xds::services_config::ServiceProtocol;

use super::super::super::name::ServiceName;
use super::super::super::provider::Offer;
use super::super::Subscriber;

/// The root of a protocol, where the configuration has none.
pub fn default_root(protocol: ServiceProtocol) -> &'static str {
    match protocol {
        ServiceProtocol::Bolt => "/sofa-rpc",
        ServiceProtocol::Dubbo => "/dubbo",
    }
}

/// The directory of an interface's providers.
pub fn providers(root: &str, interface: &str) -> String {
    format!("{root}/{}/providers", encode(interface))
}

/// The node of an offer.
pub fn offer(root: &str, offer: &Offer) -> String {
    format!("{}/{}", providers(root, offer.name.interface()), encode(&offer.to_url()))
}

/// The node that says who subscribes to a service. `host` is ours.
pub fn consumer(root: &str, name: &ServiceName, subscriber: &Subscriber, host: &str) -> String {
    let interface = name.interface();
    let application = &subscriber.application;
    // No port, so IPv6 needs brackets to be told from one.
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let mut url = match name.protocol() {
        ServiceProtocol::Dubbo => format!(
            "consumer://{host}/{interface}?application={application}&category=consumers\
             &check=false&dubbo=2.0.2&interface={interface}&protocol=dubbo&side=consumer"
        ),
        ServiceProtocol::Bolt => format!(
            "bolt://{host}?appName={application}&interface={interface}&pubsub=sub\
             &uniqueId={}&version={}",
            name.unique_id(),
            name.version()
        ),
    };
    if name.protocol() == ServiceProtocol::Dubbo {
        for (key, value) in [("group", name.group()), ("version", name.version())] {
            if !value.is_empty() {
                url.push_str(&format!("&{key}={value}"));
            }
        }
    }
    format!("{root}/{}/consumers/{}", encode(interface), encode(&url))
}

/// The directories above a node, from the outermost.
pub fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').skip(1).map(|(at, _)| &path[..at])
}

/// As Java's `URLEncoder` writes UTF-8: space is `+`, and of the punctuation only `*-._` stay.
pub fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// As Java's `URLDecoder` reads it; what is not encoded stays as it is.
pub fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => match (nibble(*high), nibble(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    rest = after;
                }
                _ => bytes.push(b'%'),
            },
            (byte, _) => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_encoded_as_java_does() {
        let url = "dubbo://10.0.0.5:20880/com.foo.Hello?group=g1&version=1.0.0&application=app";
        let name = "dubbo%3A%2F%2F10.0.0.5%3A20880%2Fcom.foo.Hello%3Fgroup%3Dg1%26version%3D1.0.0\
                    %26application%3Dapp";
        assert_eq!(encode(url), name);
        assert_eq!(decode(name), url);
        assert_eq!(encode("a b*~-._ü"), "a+b*%7E-._%C3%BC");
        for (text, plain) in
            [("%", "%"), ("%zz", "%zz"), ("%4", "%4"), ("a+b", "a b"), ("%2b", "+")]
        {
            assert_eq!(decode(text), plain);
        }
    }

    #[test]
    fn paths_of_dubbo() {
        let name = ServiceName::dubbo("com.foo.Hello", "g1", "*").unwrap();
        assert_eq!(providers("/dubbo", name.interface()), "/dubbo/com.foo.Hello/providers");
        let subscriber = Subscriber { application: "app".to_owned(), host: None };
        let path = consumer("/dubbo", &name, &subscriber, "10.0.0.1");
        let (directory, node) = path.rsplit_once('/').unwrap();
        assert_eq!(directory, "/dubbo/com.foo.Hello/consumers");
        let url = decode(node);
        assert!(url.starts_with("consumer://10.0.0.1/com.foo.Hello?application=app&category="));
        assert!(url.ends_with("&side=consumer&group=g1&version=*"), "{url}");
        let above: Vec<_> = parents("/dubbo/com.foo.Hello/providers/x").collect();
        assert_eq!(above, ["/dubbo", "/dubbo/com.foo.Hello", "/dubbo/com.foo.Hello/providers"]);
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(text in "\\PC{0,60}") {
            prop_assert_eq!(decode(&encode(&text)), text);
        }
    }
}
