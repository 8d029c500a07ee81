//! Tracing without a tracer (contract section 19). Whether a request is to be traced is decided and passed
//! on in its id, for those who trace; what its route calls it is passed on in a header.
//!
//! Invariant: what an id says already is not decided again, only taken back.

use std::sync::Arc;

use outrigger_codecs::http::{Field, FieldKind};
use outrigger_xds::snapshot::{Decorator, RequestIdRules, Route, Tracing};

use super::super::head::{FieldWriter, HeadSink};

/// What the client asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::http) struct Wish {
    /// `x-client-trace-id`
    pub(in crate::http) client: bool,
    /// `x-envoy-force-trace`
    pub(in crate::http) force: bool,
    /// What its request id says counts.
    pub(in crate::http) is_trusted: bool,
}

/// Whether a request is to be traced, and its id that says so; nothing for what is no UUID.
pub(in crate::http) fn decide(
    tracing: &Tracing,
    rules: RequestIdRules,
    wish: Wish,
    random: u64,
    id: &[u8],
) -> Option<(bool, [u8; UUID_LEN])> {
    let mut id: [u8; UUID_LEN] = id.try_into().ok()?;
    if !rules.use_for_trace_sampling {
        return Some((true, id));
    }
    let digits = std::str::from_utf8(&id[..8]).ok()?;
    // Every proxy on the way draws the same.
    let drawn = u64::from(u32::from_str_radix(digits, 16).ok()?) % 10_000;
    let reason = match id[REASON_AT] {
        said @ (SAMPLED | FORCED | BY_CLIENT) if wish.is_trusted => said,
        _ if wish.client && tracing.client.contains(random) => BY_CLIENT,
        _ if wish.force => FORCED,
        _ if tracing.random.contains(drawn) => SAMPLED,
        _ => UNTRACED,
    };
    let is_traced = reason != UNTRACED && tracing.overall.contains(drawn);
    if rules.pack_trace_reason {
        id[REASON_AT] = if is_traced { reason } else { UNTRACED };
    }
    Some((is_traced, id))
}

/// What the route of one request calls it.
#[derive(Default)]
pub(super) struct Naming {
    is_on: bool,
    is_outbound: bool,
    operation: Option<Arc<Decorator>>,
}

impl Naming {
    pub(super) fn of(route: &Route, is_outbound: bool) -> Self {
        let operation = route.decorator.clone().filter(|decorator| decorator.propagate);
        Self { is_on: true, is_outbound, operation }
    }

    pub(super) fn drops_from_request(&self, field: &Field<'_>) -> bool {
        self.is_on && (!self.is_outbound || self.operation.is_some()) && is_operation(field)
    }

    pub(super) fn drops_from_response(&self, field: &Field<'_>) -> bool {
        self.is_on && (self.is_outbound || self.operation.is_some()) && is_operation(field)
    }

    /// The server's proxy is told.
    pub(super) fn write_request<S: HeadSink>(&self, writer: &mut FieldWriter<'_, S>) {
        self.write(self.is_outbound, writer);
    }

    /// The client's proxy is told.
    pub(super) fn write_response<S: HeadSink>(&self, writer: &mut FieldWriter<'_, S>) {
        self.write(!self.is_outbound, writer);
    }

    fn write<S: HeadSink>(&self, here: bool, writer: &mut FieldWriter<'_, S>) {
        if here && let Some(decorator) = &self.operation {
            writer.field(OPERATION, decorator.operation.as_bytes());
        }
    }
}

fn is_operation(field: &Field<'_>) -> bool {
    field.kind == FieldKind::XEnvoy && field.name.eq_ignore_ascii_case(OPERATION)
}

const OPERATION: &str = "x-envoy-decorator-operation";

/// The version of a random UUID stands for what is not traced.
const UNTRACED: u8 = b'4';
const SAMPLED: u8 = b'9';
const FORCED: u8 = b'a';
const BY_CLIENT: u8 = b'b';

const UUID_LEN: usize = 36;
/// Where an id says why it is traced.
const REASON_AT: usize = 14;

#[cfg(test)]
mod tests {
    use outrigger_xds::snapshot::{Fraction, RuntimeFraction};

    use super::*;

    const RULES: RequestIdRules = RequestIdRules {
        generate: true,
        preserve_external: false,
        always_set_in_response: false,
        pack_trace_reason: true,
        use_for_trace_sampling: true,
    };

    fn tracing(client: u32, random: u32, overall: u32) -> Tracing {
        let share = |numerator| RuntimeFraction::fixed(Fraction { numerator, denominator: 10_000 });
        Tracing { client: share(client), random: share(random), overall: share(overall) }
    }

    /// An id of which is drawn what it begins with.
    fn id(drawn: u32, reason: char) -> String {
        format!("{drawn:08x}-0000-{reason}000-8000-000000000000")
    }

    #[test]
    fn section_19_who_is_traced_is_said_in_the_id() {
        let plain = Wish { is_trusted: true, ..Wish::default() };
        let client = Wish { client: true, ..plain };
        let force = Wish { force: true, ..plain };
        for (shares, wish, drawn, before, after) in [
            ((0, 100, 10_000), plain, 99, '4', '9'),
            ((0, 100, 10_000), plain, 100, '4', '4'),
            ((0, 100, 10_000), plain, 10_099, '4', '9'),
            ((10_000, 0, 10_000), client, 0, '4', 'b'),
            ((0, 0, 10_000), client, 0, '4', '4'),
            ((0, 0, 10_000), force, 0, '4', 'a'),
            ((0, 0, 10_000), plain, 0, 'a', 'a'),
            ((0, 0, 10_000), Wish::default(), 0, 'a', '4'),
            ((0, 0, 10), plain, 10, '9', '4'),
            ((0, 0, 10), plain, 9, '9', '9'),
        ] {
            let tracing = tracing(shares.0, shares.1, shares.2);
            let decided = decide(&tracing, RULES, wish, 0, id(drawn, before).as_bytes());
            let expected: [u8; 36] = id(drawn, after).into_bytes().try_into().unwrap();
            assert_eq!(decided, Some((after != '4', expected)), "{shares:?} {wish:?} {drawn}");
        }
    }

    #[test]
    fn section_19_ids_may_have_no_say() {
        let all = tracing(10_000, 10_000, 10_000);
        let wish = Wish::default();
        assert_eq!(decide(&all, RULES, wish, 0, b"anything"), None);
        assert_eq!(decide(&all, RULES, wish, 0, &[b'x'; 36]), None);
        let plain = id(7, '4');
        let same: [u8; 36] = plain.clone().into_bytes().try_into().unwrap();
        let unpacked = RequestIdRules { pack_trace_reason: false, ..RULES };
        assert_eq!(decide(&all, unpacked, wish, 0, plain.as_bytes()), Some((true, same)));
        let none = tracing(0, 0, 0);
        let undrawn = RequestIdRules { use_for_trace_sampling: false, ..RULES };
        assert_eq!(decide(&none, undrawn, wish, 0, plain.as_bytes()), Some((true, same)));
    }
}
