//! Bytes that are no xDS, or not quite: never a panic, and never more kept than the limits say.
//!
//! Seeded, so that a failure repeats; `OUTRIGGER_FUZZ_ITERATIONS` sets how many rounds to try.

use outrigger_xds::client::Limits;

use super::*;

const ITERATIONS: u64 = 300;
const LIMITS: Limits = Limits {
    names: 20,
    resources: 20,
    name_bytes: 40,
    version_bytes: 20,
    nonce_bytes: 20,
    aliases: 3,
    unanswered: 4,
};

#[test]
fn arbitrary_responses_never_panic_and_memory_is_bounded() {
    let iterations = std::env::var("OUTRIGGER_FUZZ_ITERATIONS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(ITERATIONS);
    for seed in 0..iterations {
        let outcome = std::panic::catch_unwind(|| round(seed));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

fn round(seed: u64) {
    let mut random = Random(seed);
    let variant = BOTH[random.below(2)];
    let options = Options { limits: LIMITS, ..Options::default() };
    let mut driven = Driven::with(variant, options);
    driven.ask(Cluster, &[]);
    driven.ask(Endpoints, &["a", "b", "c"]);
    driven.client.connected();
    let mut tokens = Vec::new();
    for _ in 0..200 {
        driven.requests();
        while !driven.client.can_receive() {
            let token = tokens.remove(random.below(tokens.len()));
            let rejections = (0..random.below(3)).map(|_| Rejection::new(name(&mut random), "bad"));
            driven.client.answer(token, rejections.collect(), driven.now);
            driven.now += SECOND;
            driven.requests();
        }
        let bytes = arbitrary(variant, &mut random);
        let received = Response::decode(variant, bytes.into())
            .map(|response| driven.client.receive(response, driven.now));
        match received {
            Ok(Ok(Received::Update(update))) => tokens.push(update.token),
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => driven.reconnect(),
        }
        match random.below(30) {
            0 => drop(driven.client.subscribe(
                Endpoints,
                &name(&mut random),
                Some(SECOND),
                driven.now,
            )),
            1 => driven.client.unsubscribe(Endpoints, &name(&mut random)),
            2 => driven.client.resubscribe(Endpoints, &name(&mut random), None, driven.now),
            3 => drop(driven.after(SECOND)),
            4 => driven.reconnect(),
            _ => {}
        }
        for kind in ResourceType::ALL {
            let status = driven.client.status(kind);
            assert!(status.held <= LIMITS.resources && status.names <= LIMITS.names);
            assert!(status.error.is_none_or(|error| error.text.len() < 25 * 2100));
        }
        for (name, version) in driven.held(Cluster) {
            assert!(name.len() <= LIMITS.name_bytes && version.len() <= LIMITS.version_bytes);
        }
    }
    for token in tokens {
        driven.client.answer(token, Vec::new(), driven.now);
    }
}

/// A response with strange parts, and maybe with bytes changed.
fn arbitrary(variant: Variant, random: &mut Random) -> Vec<u8> {
    if random.below(10) == 0 {
        return (0..random.below(60)).map(|_| random.below(256) as u8).collect();
    }
    let kind = [Cluster, Endpoints, Listener][random.below(3)];
    let resources: Vec<_> = (0..random.below(6)).map(|_| strange(kind, random)).collect();
    let version = name(random);
    let mut bytes = match variant {
        Sotw => {
            let any = |resource: &Resource| match &resource.resource {
                Some(any) if random.below(2) == 0 => any.clone(),
                _ => wrap(resource),
            };
            sotw_of(kind, &version, resources.iter().map(any).collect()).encode_to_vec()
        }
        Delta => DeltaDiscoveryResponse {
            removed_resources: (0..random.below(3)).map(|_| name(random)).collect(),
            ..delta_of(kind, &version, resources)
        }
        .encode_to_vec(),
    };
    for _ in 0..random.below(3) {
        let at = random.below(bytes.len());
        match random.below(3) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes.truncate(at),
            _ => bytes.insert(at, random.below(256) as u8),
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

fn strange(kind: ResourceType, random: &mut Random) -> Resource {
    let mut strange = resource(kind, &name(random), &name(random));
    match random.below(8) {
        0 => strange.resource = None,
        1 => strange.ttl = Some(Span { seconds: random.below(40) as i64 - 20, nanos: 5 }),
        2 => strange.aliases = (0..random.below(5)).map(|_| name(random)).collect(),
        3 => strange.name.clear(),
        4 => {
            let bytes: Vec<u8> = (0..random.below(20)).map(|_| random.below(256) as u8).collect();
            strange.resource.as_mut().unwrap().value = bytes.into();
        }
        _ => {}
    }
    strange
}

fn name(random: &mut Random) -> String {
    match random.below(12) {
        0 => String::new(),
        1 => "*".to_owned(),
        2 => "xdstp://x".to_owned(),
        3 => "é".repeat(random.below(40)),
        _ => ["a", "b", "c", "d"][random.below(4)].repeat(1 + random.below(2)),
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % limit.max(1) as u64) as usize
    }
}
