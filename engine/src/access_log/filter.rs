//! Which records are written, decided when one would be.

use outrigger_xds::snapshot::RequestView;
use outrigger_xds::snapshot::log_filter::{LogFilter, LogTypeName};

use super::capture::Captured;
use super::flags::ResponseFlags;
use super::record::{Address, GrpcStatus, LogType, Record};
use super::render::Headers;

/// A filter, ready for records.
#[derive(Debug)]
pub(super) enum Filter {
    /// As it was configured.
    Plain(LogFilter),
    Flags(ResponseFlags),
    All(Box<[Filter]>),
    Any(Box<[Filter]>),
}

impl Filter {
    pub(super) fn new(filter: &LogFilter) -> Filter {
        let each = |filters: &[LogFilter]| filters.iter().map(Filter::new).collect();
        match filter {
            LogFilter::All(filters) => Filter::All(each(filters)),
            LogFilter::Any(filters) => Filter::Any(each(filters)),
            LogFilter::Flags(names) => {
                let mut flags = ResponseFlags::default();
                for flag in names.iter().filter_map(|name| ResponseFlags::from_short_name(name)) {
                    flags.insert(flag);
                }
                Filter::Flags(flags)
            }
            filter => Filter::Plain(filter.clone()),
        }
    }

    pub(super) fn takes(&self, record: &Record<'_>, headers: Captured<'_>) -> bool {
        match self {
            Filter::Plain(filter) => plain(filter, record, headers),
            Filter::Flags(flags) if flags.is_empty() => !record.flags.is_empty(),
            Filter::Flags(flags) => record.flags.intersects(*flags),
            Filter::All(filters) => filters.iter().all(|filter| filter.takes(record, headers)),
            Filter::Any(filters) => filters.iter().any(|filter| filter.takes(record, headers)),
        }
    }
}

fn plain(filter: &LogFilter, record: &Record<'_>, headers: Captured<'_>) -> bool {
    match filter {
        LogFilter::Status(comparison) => comparison.holds(record.response_code.into()),
        LogFilter::DurationMs(comparison) => {
            let times = &record.times;
            let whole = times.end.saturating_sub(times.downstream_rx_begin);
            comparison.holds(whole / NANOS_PER_MS)
        }
        LogFilter::NotHealthCheck => true,
        LogFilter::Traceable => record.is_traced,
        LogFilter::Share { share, is_independent } => {
            let id = record.stream_id.filter(|_| !is_independent);
            // Of no request: the time is random enough.
            share.contains(id.map_or(mixed(record.times.end), |id| id.0 as u64))
        }
        LogFilter::Header(header) => header.matches(&Kept { record, headers }),
        LogFilter::GrpcStatus { statuses, excludes } => {
            let status = match record.grpc_status {
                Some(GrpcStatus::Code(code)) => code,
                Some(GrpcStatus::Unreadable) => UNKNOWN,
                None => of_http(record.response_code),
            };
            statuses.contains(&status) != *excludes
        }
        LogFilter::Type { types, excludes } => {
            let own = match record.log_type {
                LogType::DownstreamEnd => LogTypeName::DownstreamEnd,
                LogType::TcpConnectionEnd => LogTypeName::TcpConnectionEnd,
                LogType::NotSet => LogTypeName::NotSet,
            };
            types.contains(&own) != *excludes
        }
        LogFilter::Always(takes) => *takes,
        // These have forms of their own.
        LogFilter::All(_) | LogFilter::Any(_) | LogFilter::Flags(_) => true,
    }
}

/// A request by the headers that were kept of it.
struct Kept<'a> {
    record: &'a Record<'a>,
    headers: Captured<'a>,
}

impl Kept<'_> {
    fn get(&self, name: &str) -> &[u8] {
        self.headers.request(name).unwrap_or_default()
    }
}

impl RequestView for Kept<'_> {
    fn method(&self) -> &[u8] {
        self.get(":method")
    }

    fn scheme(&self) -> &[u8] {
        self.get(":scheme")
    }

    fn authority(&self) -> &[u8] {
        self.get(":authority")
    }

    fn path_and_query(&self) -> &[u8] {
        self.get(":path")
    }

    fn is_internal(&self) -> bool {
        matches!(self.record.downstream_remote, Some(Address::Pipe(_)))
    }

    fn header_values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.request(name).into_iter()
    }
}

/// The status of gRPC that a status of HTTP means.
fn of_http(status: u16) -> u32 {
    match status {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => UNKNOWN,
    }
}

fn mixed(number: u64) -> u64 {
    // Fibonacci hashing.
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
}

const UNKNOWN: u32 = 2;
const NANOS_PER_MS: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outrigger_xds::snapshot::log_filter::Comparison;
    use outrigger_xds::snapshot::{
        Fraction, HeaderMatcher, HeaderName, HeaderPredicate, RuntimeFraction,
    };

    use super::super::capture::{Capture, CaptureSet};
    use super::super::record::{StreamId, Times};
    use super::*;

    #[allow(clippy::needless_pass_by_value, reason = "filters are written where they are used")]
    fn takes(filter: LogFilter, record: &Record<'_>) -> bool {
        let headers = Captured { set: &CaptureSet::default(), values: &Capture::default() };
        Filter::new(&filter).takes(record, headers)
    }

    fn flags(names: &[&str]) -> LogFilter {
        LogFilter::Flags(names.iter().map(|name| Box::from(*name)).collect())
    }

    #[test]
    fn section_15_numbers_are_compared() {
        let record = Record {
            response_code: 503,
            times: Times { downstream_rx_begin: 5, end: 20_900_005, ..Times::default() },
            ..Record::default()
        };
        for (comparison, expected) in [
            (Comparison::Equal(503), true),
            (Comparison::AtLeast(504), false),
            (Comparison::AtMost(503), true),
            (Comparison::Different(503), false),
        ] {
            assert_eq!(takes(LogFilter::Status(comparison), &record), expected, "{comparison:?}");
        }
        assert!(takes(LogFilter::DurationMs(Comparison::Equal(20)), &record));
        assert!(!takes(LogFilter::DurationMs(Comparison::AtLeast(21)), &record));
    }

    #[test]
    fn section_15_flags_types_and_combinations() {
        let plain = Record::default();
        let no_route = Record {
            flags: ResponseFlags::NO_ROUTE_FOUND,
            log_type: LogType::NotSet,
            ..Record::default()
        };
        assert!(takes(flags(&["UF", "NR"]), &no_route) && !takes(flags(&["UF"]), &no_route));
        assert!(takes(flags(&[]), &no_route) && !takes(flags(&[]), &plain));
        let kind = |excludes| LogFilter::Type { types: Box::new([LogTypeName::NotSet]), excludes };
        assert!(takes(kind(false), &no_route) && !takes(kind(false), &plain));
        assert!(!takes(kind(true), &no_route) && takes(kind(true), &plain));
        let both = || Box::new([flags(&["NR"]), kind(true)]);
        assert!(!takes(LogFilter::All(both()), &no_route));
        assert!(takes(LogFilter::Any(both()), &no_route));
        assert!(takes(LogFilter::Always(true), &plain) && takes(LogFilter::NotHealthCheck, &plain));
        assert!(!takes(LogFilter::Traceable, &plain));
    }

    #[test]
    fn section_15_statuses_of_grpc() {
        let filter = |excludes| LogFilter::GrpcStatus { statuses: Box::new([14]), excludes };
        let ended = |status| Record { grpc_status: Some(status), ..Record::default() };
        assert!(takes(filter(false), &ended(GrpcStatus::Code(14))));
        assert!(!takes(filter(false), &ended(GrpcStatus::Unreadable)));
        assert!(takes(filter(true), &ended(GrpcStatus::Code(0))));
        let http = Record { response_code: 503, ..Record::default() };
        assert!(takes(filter(false), &http));
    }

    #[test]
    fn section_15_shares_go_by_the_request_id() {
        let share = |numerator, is_independent| LogFilter::Share {
            share: RuntimeFraction::fixed(Fraction { numerator, denominator: 100 }),
            is_independent,
        };
        let record = Record { stream_id: Some(StreamId(249)), ..Record::default() };
        assert!(takes(share(50, false), &record) && !takes(share(49, false), &record));
        assert!(takes(share(100, true), &record) && !takes(share(0, true), &record));
    }

    #[test]
    fn section_15_request_headers() {
        let filter = LogFilter::Header(Arc::new(HeaderMatcher {
            name: HeaderName::new("x-debug"),
            predicate: HeaderPredicate::Present(true),
            invert: false,
            missing_is_empty: false,
        }));
        let set = CaptureSet::of([], [&filter]);
        assert_eq!(set.request_headers().collect::<Vec<_>>(), [(0, "x-debug")]);
        let mut values = Capture::default();
        let decide = |values: &Capture| {
            let headers = Captured { set: &set, values };
            Filter::new(&filter).takes(&Record::default(), headers)
        };
        assert!(!decide(&values));
        values.put(0, b"1");
        assert!(decide(&values));
    }
}
