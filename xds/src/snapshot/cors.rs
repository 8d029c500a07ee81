//! CORS policies of routes and virtual hosts (contract section 19).

use super::matcher::StringMatcher;
use super::runtime::RuntimeFraction;

/// Which other sites may use a route's responses, and how.
#[derive(Debug, Clone)]
pub struct CorsPolicy {
    /// Origins that may; any is enough.
    pub allow_origins: Box<[StringMatcher]>,
    /// `access-control-allow-methods`; empty: not written. Likewise the next four.
    pub allow_methods: Box<str>,
    /// `access-control-allow-headers`.
    pub allow_headers: Box<str>,
    /// `access-control-expose-headers`.
    pub expose_headers: Box<str>,
    /// `access-control-max-age`.
    pub max_age: Box<str>,
    /// Whether `access-control-allow-credentials` is written.
    pub allow_credentials: bool,
    /// Whether `access-control-allow-private-network` is written where it is asked for.
    pub allow_private_network: bool,
    /// Requests to which the policy applies.
    pub enabled: RuntimeFraction,
    /// Requests that are only counted, of those to which it does not apply.
    pub shadow: RuntimeFraction,
    /// Preflights from other origins go upstream; false: they are answered with nothing granted.
    pub forward_not_matching_preflights: bool,
}

impl CorsPolicy {
    /// Whether pages of `origin` may use responses. An allowed origin of `*` allows all.
    #[must_use]
    pub fn allows(&self, origin: &[u8]) -> bool {
        let mut origins = self.allow_origins.iter();
        origins.any(|allowed| allowed.matches(b"*") || allowed.matches(origin))
    }
}
