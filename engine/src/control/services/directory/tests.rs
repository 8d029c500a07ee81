//! The rules of the directory, without sockets.

use outrigger_xds::services_config::{Advertise, FileRegistry, ZooKeeperRegistry};

use super::*;

const INGRESS: &str = "10.9.9.9:12201";

fn config(registries: Vec<RegistryConfig>) -> Arc<ServicesConfig> {
    let ingress: HostPort = INGRESS.parse().unwrap();
    Arc::new(ServicesConfig {
        advertise: Advertise { bolt: Some(ingress.clone()), dubbo: Some(ingress) },
        registries,
        ..ServicesConfig::default()
    })
}

fn zookeeper(name: &str) -> RegistryConfig {
    RegistryConfig {
        name: name.into(),
        protocols: vec![ServiceProtocol::Dubbo, ServiceProtocol::Bolt],
        file: None,
        zookeeper: Some(ZooKeeperRegistry::at(format!("{name}:2181").parse().unwrap())),
        nacos: None,
    }
}

fn file(name: &str) -> RegistryConfig {
    RegistryConfig {
        zookeeper: None,
        file: Some(FileRegistry { path: "/nowhere".into() }),
        ..zookeeper(name)
    }
}

fn with(registries: Vec<RegistryConfig>) -> Directory {
    Directory::new(config(registries), "host".to_owned())
}

fn bolt(name: &str) -> ServiceName {
    ServiceName::bolt(name).unwrap()
}

fn dubbo(group: &str, version: &str) -> ServiceName {
    ServiceName::dubbo("I", group, version).unwrap()
}

fn place(address: &str) -> Place {
    Place { address: address.parse().unwrap(), credentials: None }
}

fn provider(name: &ServiceName, address: &str, weight: u32) -> Provider {
    let address = address.parse().unwrap();
    Provider { name: name.clone(), address, weight, healthy: true, query: "".into() }
}

fn report(directory: &mut Directory, source: &str, lookup: &ServiceName, providers: Vec<Provider>) {
    let lookup = Arc::new(lookup.clone());
    directory.report(source, Report::Providers { lookup, providers });
}

fn publish(directory: &mut Directory, name: &ServiceName, place: Option<Place>) {
    directory.publish(name.clone(), BTreeMap::new(), place, 7).unwrap();
}

/// `side protocol key: address*weight …` of every service.
fn listed(directory: &Directory) -> Vec<String> {
    let endpoint = |one: &Endpoint| format!(" {}*{}", one.address, one.weight);
    let services = directory.services();
    services
        .iter()
        .map(|one| {
            let endpoints: String = one.endpoints.iter().map(endpoint).collect();
            format!("{}:{endpoints}", one.cluster_name())
        })
        .collect()
}

#[test]
fn published_services_lead_to_the_application() {
    let mut directory = with(vec![]);
    publish(&mut directory, &bolt("com.foo.Hello:1.0"), None);
    publish(&mut directory, &dubbo("g", "1"), None);
    assert_eq!(
        listed(&directory),
        [
            "published|bolt|com.foo.Hello:1.0: 127.0.0.1:12200*1",
            "published|dubbo|g/I:1: 127.0.0.1:20880*1",
        ]
    );
    let serial = directory.serial();
    publish(&mut directory, &dubbo("g", "1"), None);
    assert_eq!(directory.serial(), serial, "the same again is no change");
    directory.unpublish(&dubbo("g", "1"), None);
    directory.unpublish(&dubbo("g", "1"), None);
    assert_eq!(directory.serial(), serial + 1);
    assert_eq!(listed(&directory).len(), 1);
}

#[test]
fn without_registries_services_of_the_host_are_those_there_are() {
    let mut directory = with(vec![]);
    publish(&mut directory, &bolt("I"), None);
    directory.subscribe(bolt("I"), None).unwrap();
    directory.subscribe(bolt("J"), None).unwrap();
    let providers = directory.providers_of(&bolt("I"));
    assert_eq!(providers.len(), 1);
    assert_eq!(providers[0].to_address(), format!("{INGRESS}?app_name=host&p=1&startTime=7&v=4.0"));
    assert_eq!(
        listed(&directory)[1..],
        ["subscribed|bolt|I:1.0: 10.9.9.9:12201*1", "subscribed|bolt|J:1.0:"]
    );
}

#[test]
fn sources_are_united_and_the_first_one_counts() {
    let mut directory = with(vec![zookeeper("a"), zookeeper("b")]);
    let name = bolt("I");
    directory.subscribe(name.clone(), None).unwrap();
    let serial = directory.serial();
    let of = |address, weight| provider(&name, address, weight);
    report(&mut directory, "b", &name, vec![of("1.1.1.1:1", 5), of("2.2.2.2:2", 5)]);
    report(&mut directory, "a", &name, vec![of("1.1.1.1:1", 9), of("3.3.3.3:3", 0)]);
    report(&mut directory, "unknown", &name, vec![of("4.4.4.4:4", 1)]);
    assert_eq!(listed(&directory), ["subscribed|bolt|I:1.0: 1.1.1.1:1*9 2.2.2.2:2*5"]);
    assert_eq!(directory.providers_of(&name).len(), 3, "weight 0 is shown, and not used");
    assert_eq!(directory.serial(), serial + 2);
    // Another order is no change; an empty list is one.
    report(&mut directory, "b", &name, vec![of("2.2.2.2:2", 5), of("1.1.1.1:1", 5)]);
    assert_eq!(directory.serial(), serial + 2);
    report(&mut directory, "b", &name, vec![]);
    assert_eq!(listed(&directory), ["subscribed|bolt|I:1.0: 1.1.1.1:1*9"]);
    assert_eq!(directory.counts().providers, 2);
    // Losing a registry changes nothing.
    directory.report("a", Report::Lost);
    assert_eq!(listed(&directory), ["subscribed|bolt|I:1.0: 1.1.1.1:1*9"]);
    // What comes after the end is nobody's.
    directory.unsubscribe(&name, None);
    report(&mut directory, "a", &name, vec![of("5.5.5.5:5", 1)]);
    assert!(listed(&directory).is_empty());
    assert_eq!(directory.counts().providers, 0);
}

#[test]
fn patterns_have_the_services_that_they_stand_for() {
    let mut directory = with(vec![zookeeper("a")]);
    directory.subscribe(dubbo("*", "*"), None).unwrap();
    let found = vec![
        provider(&dubbo("", "1"), "1.1.1.1:1", 1),
        provider(&dubbo("g", "2"), "2.2.2.2:2", 1),
        provider(&dubbo("g", "2"), "3.3.3.3:3", 1),
    ];
    report(&mut directory, "a", &dubbo("*", "*"), found.clone());
    let mut all = listed(&directory);
    all.sort();
    assert_eq!(
        all,
        [
            "subscribed|dubbo|*/I:*: 1.1.1.1:1*1 2.2.2.2:2*1 3.3.3.3:3*1",
            "subscribed|dubbo|I: 1.1.1.1:1*1 2.2.2.2:2*1 3.3.3.3:3*1",
            "subscribed|dubbo|I:1: 1.1.1.1:1*1",
            "subscribed|dubbo|g/I:2: 2.2.2.2:2*1 3.3.3.3:3*1",
        ]
    );
    // A provider that has no version is who requests without one are for.
    let plain = provider(&dubbo("", ""), "4.4.4.4:4", 1);
    report(&mut directory, "a", &dubbo("*", "*"), [found, vec![plain]].concat());
    assert!(listed(&directory).contains(&"subscribed|dubbo|I: 4.4.4.4:4*1".to_owned()));
    assert!(directory.publish(dubbo("*", ""), BTreeMap::new(), None, 0).is_err());
}

#[test]
fn registries_are_told_what_they_are_for() {
    let mut directory = with(vec![zookeeper("a"), file("f")]);
    publish(&mut directory, &bolt("I"), None);
    publish(&mut directory, &dubbo("", ""), Some(place("1.2.3.4:2181")));
    directory.subscribe(dubbo("", ""), Some(place("1.2.3.4:2181"))).unwrap();
    let registries = directory.config.registries.clone();
    let wanted = directory.wanted_of(&registries[0]);
    let offered: Vec<_> = wanted.offers.iter().map(|offer| offer.to_url()).collect();
    assert_eq!(offered.len(), 2);
    assert!(offered[0].starts_with("bolt://10.9.9.9:12201?appName=host&"), "{offered:?}");
    assert!(offered[1].starts_with("dubbo://10.9.9.9:12201/I?anyhost=true&application=host&"));
    assert_eq!(wanted.subscriber.host.as_deref(), Some("10.9.9.9"));
    let wanted = directory.wanted_of(&registries[1]);
    assert_eq!((wanted.offers.len(), wanted.lookups.len()), (0, 1), "nothing is written to files");
    let wanted = directory.wanted_at("1.2.3.4:2181");
    assert_eq!((wanted.offers.len(), wanted.lookups.len()), (1, 1));
    // A place that the configuration has is that one.
    publish(&mut directory, &dubbo("x", ""), Some(place("a:2181")));
    assert_eq!(directory.places().len(), 1);
}

#[test]
fn places_live_as_long_as_something_is_there() {
    let mut directory = with(vec![]);
    let (one, two) = (place("1.1.1.1:1"), place("2.2.2.2:2"));
    publish(&mut directory, &dubbo("", ""), Some(one.clone()));
    publish(&mut directory, &dubbo("", ""), Some(two.clone()));
    assert_eq!(directory.places().len(), 2);
    directory.unpublish(&dubbo("", ""), Some(&one));
    assert_eq!((directory.places().len(), directory.counts().published), (1, 1));
    directory.unpublish(&dubbo("", ""), Some(&two));
    assert_eq!((directory.places().len(), directory.counts().published), (0, 0));
    // The newest password counts.
    let with_password = |password: &str| {
        let (username, password) = ("u".to_owned(), password.to_owned());
        Place { credentials: Some(Credentials { username, password }), ..one.clone() }
    };
    for password in ["a", "b"] {
        directory.subscribe(dubbo("", ""), Some(with_password(password))).unwrap();
    }
    assert_eq!(directory.places()["u@1.1.1.1:1"], with_password("b"));
    assert!(!format!("{directory:?}").contains("\"b\""));
}

#[test]
fn everything_is_bounded() {
    let mut directory = with(vec![zookeeper("a")]);
    for number in 0..PLACES_MAX {
        let place = place(&format!("1.1.1.1:{}", number + 1));
        directory.subscribe(dubbo("", ""), Some(place)).unwrap();
    }
    let one_more = directory.subscribe(dubbo("", ""), Some(place("9.9.9.9:9")));
    assert_eq!(one_more, Err(Refusal::TooManyRegistries));
    for number in directory.counts().subscribed..SERVICES_MAX {
        directory.subscribe(bolt(&format!("I{number}")), None).unwrap();
    }
    assert_eq!(directory.subscribe(bolt("J"), None), Err(Refusal::TooManyServices));
    let published = directory.publish(bolt("J"), BTreeMap::new(), None, 0);
    assert_eq!(published, Err(Refusal::TooManyServices));
    directory.subscribe(bolt("I1"), None).unwrap();
    let name = bolt("I1");
    let many = |count: usize| {
        (0..count as u32).map(|number| Provider {
            address: SocketAddr::new(std::net::Ipv4Addr::from_bits(number).into(), 1),
            ..provider(&name, "1.1.1.1:1", 1)
        })
    };
    report(&mut directory, "a", &name, many(PROVIDERS_PER_SERVICE_MAX + 3).collect());
    let counts = directory.counts();
    assert_eq!((counts.providers, counts.overflows), (PROVIDERS_PER_SERVICE_MAX, 3));
    let long = BTreeMap::from([("a".to_owned(), "x".repeat(PARAMETERS_BYTES_MAX))]);
    assert_eq!(directory.publish(bolt("J"), long, None, 0), Err(Refusal::TooLong));
}

#[test]
fn registering_needs_an_address_to_register() {
    let config =
        ServicesConfig { advertise: Advertise::default(), ..(*config(vec![file("f")])).clone() };
    let mut directory = Directory::new(Arc::new(config), "host".to_owned());
    publish(&mut directory, &bolt("I"), None);
    let somewhere = Some(place("1.1.1.1:1"));
    let refused = directory.publish(dubbo("", ""), BTreeMap::new(), somewhere, 0);
    assert_eq!(refused, Err(Refusal::NoAdvertise("dubbo")));
    assert!(directory.places().is_empty());
}

#[test]
fn an_application_that_begins_again_keeps_what_it_has() {
    let application = |name: &str, zone: &str| Application {
        name: name.to_owned(),
        zone: zone.to_owned(),
        ..Application::default()
    };
    let mut directory = with(vec![]);
    directory.begin_application(application("a", "z"));
    publish(&mut directory, &bolt("I"), None);
    publish(&mut directory, &dubbo("", ""), None);
    directory.begin_application(application("a", "z"));
    assert_eq!(directory.counts().published, 2);
    directory.begin_application(application("a", "y"));
    assert_eq!(directory.counts().published, 1, "Dubbo's are not SOFARPC's");
}

#[test]
fn what_is_saved_is_restored() {
    let registries = || vec![zookeeper("a"), zookeeper("b")];
    let mut directory = with(registries());
    directory.begin_application(Application { name: "app".to_owned(), ..Application::default() });
    publish(&mut directory, &dubbo("g", "1"), Some(place("1.1.1.1:1")));
    directory.subscribe(bolt("I"), None).unwrap();
    for source in ["a", "b"] {
        let found = vec![provider(&bolt("I"), "1.1.1.1:1", 3)];
        report(&mut directory, source, &bolt("I"), found);
    }
    let text = serde_json::to_string(&directory.save()).unwrap();
    let restore = |registries| {
        let mut directory = with(registries);
        directory.restore(serde_json::from_str(&text).unwrap());
        directory
    };
    let again = restore(registries());
    assert_eq!(listed(&again), listed(&directory));
    assert_eq!(again.counts(), directory.counts());
    assert_eq!(
        (again.application(), again.places()),
        (directory.application(), directory.places())
    );
    assert_eq!(serde_json::to_string(&again.save()).unwrap(), text);
    // A registry that is no longer configured has nothing to say.
    let fewer = restore(vec![zookeeper("b")]);
    assert_eq!(fewer.counts().providers, 1);
}
