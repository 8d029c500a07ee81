//! Predicates over requests: strings, headers, query parameters and sampled fractions (contract
//! section 7). None of them allocates.

use std::ops::Range;

use super::headers::HeaderName;
use super::pattern::Pattern;

/// A request as the matchers see it. Bytes, because nothing promises that they are UTF-8.
pub trait RequestView {
    /// `GET`.
    fn method(&self) -> &[u8];

    /// `http` or `https`, as the client is believed to have used it (`x-forwarded-proto`).
    fn scheme(&self) -> &[u8];

    /// Host with its port, if it was given one; empty if there is none.
    fn authority(&self) -> &[u8];

    /// Path with its query, after normalisation; empty for CONNECT without a path.
    fn path_and_query(&self) -> &[u8];

    /// Whether the request comes from an internal address.
    fn is_internal(&self) -> bool;

    /// Whether the client has shown a certificate; never over plain text.
    fn client_certificate_presented(&self) -> bool {
        false
    }

    /// Whether that certificate was verified.
    fn client_certificate_validated(&self) -> bool {
        false
    }

    /// Values of the header `name` (lower case, not a pseudo header) in order of appearance, each
    /// without surrounding white space.
    fn header_values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]>;
}

/// A match of a whole string or of a part of it.
#[derive(Debug, Clone)]
pub enum StringMatcher {
    /// Equal.
    Exact {
        /// Lower case if `ignore_case`.
        text: Box<[u8]>,
        /// ASCII case is not looked at.
        ignore_case: bool,
    },
    /// Starts with; never empty.
    Prefix {
        /// Lower case if `ignore_case`.
        text: Box<[u8]>,
        /// ASCII case is not looked at.
        ignore_case: bool,
    },
    /// Ends with; never empty.
    Suffix {
        /// Lower case if `ignore_case`.
        text: Box<[u8]>,
        /// ASCII case is not looked at.
        ignore_case: bool,
    },
    /// Holds; never empty.
    Contains {
        /// Lower case if `ignore_case`.
        text: Box<[u8]>,
        /// ASCII case is not looked at.
        ignore_case: bool,
    },
    /// A regular expression over the whole string.
    Regex(Pattern),
}

impl StringMatcher {
    /// Whether `value` matches.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            StringMatcher::Exact { text, ignore_case } => equal(value, text, *ignore_case),
            StringMatcher::Prefix { text, ignore_case } => {
                value.get(..text.len()).is_some_and(|head| equal(head, text, *ignore_case))
            }
            StringMatcher::Suffix { text, ignore_case } => value
                .len()
                .checked_sub(text.len())
                .is_some_and(|start| equal(&value[start..], text, *ignore_case)),
            StringMatcher::Contains { text, ignore_case: false } => {
                memchr::memmem::find(value, text).is_some()
            }
            StringMatcher::Contains { text, ignore_case: true } => {
                value.windows(text.len().max(1)).any(|window| window.eq_ignore_ascii_case(text))
            }
            StringMatcher::Regex(pattern) => pattern.matches(value),
        }
    }
}

fn equal(a: &[u8], b: &[u8], ignore_case: bool) -> bool {
    if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b }
}

/// A condition on one request header.
#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    /// May be a pseudo header: `:method`, `:path`, `:authority`, `:scheme`.
    pub name: HeaderName,
    /// The condition.
    pub predicate: HeaderPredicate,
    /// Inverts the result for a header that is there.
    pub invert: bool,
    /// A missing header is matched as the empty string.
    pub missing_is_empty: bool,
}

/// A condition on a header's value, several lines of it joined with `,`.
#[derive(Debug, Clone)]
pub enum HeaderPredicate {
    /// It is there (`true`) or not (`false`).
    Present(bool),
    /// A base-10 integer within.
    Range(Range<i64>),
    /// Text.
    String(StringMatcher),
}

/// A condition on one query parameter; the first of a repeated key counts. Keys and values are
/// compared as they are written, without decoding.
#[derive(Debug, Clone)]
pub struct QueryMatcher {
    /// Key.
    pub name: Box<[u8]>,
    /// Condition on the value.
    pub predicate: QueryPredicate,
}

/// A condition on a query parameter.
#[derive(Debug, Clone)]
pub enum QueryPredicate {
    /// It is there (`true`) or not (`false`).
    Present(bool),
    /// The value.
    String(StringMatcher),
}

/// A share of requests. Runtime keys are resolved: the static layer's value, else the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    /// At most `denominator`.
    pub numerator: u32,
    /// 100, 10,000 or 1,000,000.
    pub denominator: u32,
}

impl Fraction {
    /// Everything.
    pub const ALL: Fraction = Fraction { numerator: 100, denominator: 100 };

    /// Whether the request that drew `random` (uniform over u64) is in the share.
    #[must_use]
    pub fn contains(self, random: u64) -> bool {
        random % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }
}

impl HeaderMatcher {
    /// Whether `request` satisfies the condition.
    #[must_use]
    pub fn matches<R: RequestView>(&self, request: &R) -> bool {
        match self.name.as_str() {
            ":method" => self.matches_single(Some(request.method())),
            ":path" => self.matches_single(non_empty(request.path_and_query())),
            ":authority" | "host" => self.matches_single(non_empty(request.authority())),
            ":scheme" => self.matches_single(non_empty(request.scheme())),
            name => {
                let mut values = request.header_values(name);
                let first = values.next();
                match (first, values.next()) {
                    (Some(_), Some(_)) => self.matches_several(request, name),
                    (single, _) => self.matches_single(single),
                }
            }
        }
    }

    fn matches_single(&self, value: Option<&[u8]>) -> bool {
        self.predicate.decide(value, self.invert, self.missing_is_empty)
    }

    fn matches_several<R: RequestView>(&self, request: &R, name: &str) -> bool {
        let joined = || joined(request.header_values(name));
        let holds = match &self.predicate {
            HeaderPredicate::Present(wanted) => *wanted,
            // A comma is in no number.
            HeaderPredicate::Range(_) => false,
            HeaderPredicate::String(matcher) => matcher.matches_joined(joined),
        };
        holds != self.invert
    }
}

fn non_empty(value: &[u8]) -> Option<&[u8]> {
    (!value.is_empty()).then_some(value)
}

/// The bytes of `values` with a comma between each two.
fn joined<'a>(values: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = u8> {
    values.enumerate().flat_map(|(index, value)| {
        let comma = (index > 0).then_some(b',');
        comma.into_iter().chain(value.iter().copied())
    })
}

impl HeaderPredicate {
    /// Whether a header with this value, or without one, satisfies the condition or its inverse.
    pub(super) fn decide(
        &self,
        value: Option<&[u8]>,
        invert: bool,
        missing_is_empty: bool,
    ) -> bool {
        match (self, value) {
            (HeaderPredicate::Present(wanted), value) => (value.is_some() == *wanted) != invert,
            (predicate, Some(value)) => predicate.holds(value) != invert,
            (predicate, None) if missing_is_empty => predicate.holds(b"") != invert,
            (_, None) => false,
        }
    }

    fn holds(&self, value: &[u8]) -> bool {
        match self {
            HeaderPredicate::Present(wanted) => *wanted,
            HeaderPredicate::Range(range) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok())
                .is_some_and(|number| range.contains(&number)),
            HeaderPredicate::String(matcher) => matcher.matches(value),
        }
    }
}

impl StringMatcher {
    /// As [`StringMatcher::matches`], for text that is not in one piece. `text` starts over at each call.
    fn matches_joined<I: Iterator<Item = u8>>(&self, text: impl Fn() -> I) -> bool {
        match self {
            StringMatcher::Exact { text: wanted, ignore_case } => {
                text().count() == wanted.len() && starts_with(text(), wanted, *ignore_case)
            }
            StringMatcher::Prefix { text: wanted, ignore_case } => {
                starts_with(text(), wanted, *ignore_case)
            }
            StringMatcher::Suffix { text: wanted, ignore_case } => text()
                .count()
                .checked_sub(wanted.len())
                .is_some_and(|start| starts_with(text().skip(start), wanted, *ignore_case)),
            StringMatcher::Contains { text: wanted, ignore_case } => (0..text().count())
                .any(|start| starts_with(text().skip(start), wanted, *ignore_case)),
            StringMatcher::Regex(pattern) => pattern.matches_bytes(text()),
        }
    }
}

fn starts_with(mut text: impl Iterator<Item = u8>, wanted: &[u8], ignore_case: bool) -> bool {
    wanted.iter().all(|wanted| {
        text.next().is_some_and(|byte| {
            if ignore_case { byte.eq_ignore_ascii_case(wanted) } else { byte == *wanted }
        })
    })
}

impl QueryMatcher {
    /// Whether the query (without its `?`) satisfies the condition.
    #[must_use]
    pub fn matches(&self, query: &[u8]) -> bool {
        let value = query
            .split(|byte| *byte == b'&')
            .map(|pair| match memchr::memchr(b'=', pair) {
                Some(equals) => (&pair[..equals], &pair[equals + 1..]),
                None => (pair, &pair[pair.len()..]),
            })
            .find(|(key, _)| *key == &*self.name)
            .map(|(_, value)| value);
        match &self.predicate {
            QueryPredicate::Present(wanted) => value.is_some() == *wanted,
            QueryPredicate::String(matcher) => value.is_some_and(|value| matcher.matches(value)),
        }
    }
}
