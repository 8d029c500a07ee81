//! A request to match.

use outrigger_xds::snapshot::RequestView;

#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) scheme: &'static str,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) internal: bool,
    /// The client's certificate: presented, validated.
    pub(crate) certificate: (bool, bool),
    pub(crate) headers: Vec<(&'static str, &'static str)>,
}

impl Request {
    pub(crate) fn to(authority: &str, path: &str) -> Request {
        Request {
            method: "GET",
            scheme: "http",
            authority: authority.to_owned(),
            path: path.to_owned(),
            ..Request::default()
        }
    }

    pub(crate) fn with(mut self, headers: &[(&'static str, &'static str)]) -> Request {
        self.headers = headers.to_vec();
        self
    }
}

impl RequestView for Request {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }

    fn scheme(&self) -> &[u8] {
        self.scheme.as_bytes()
    }

    fn authority(&self) -> &[u8] {
        self.authority.as_bytes()
    }

    fn path_and_query(&self) -> &[u8] {
        self.path.as_bytes()
    }

    fn is_internal(&self) -> bool {
        self.internal
    }

    fn client_certificate_presented(&self) -> bool {
        self.certificate.0
    }

    fn client_certificate_validated(&self) -> bool {
        self.certificate.1
    }

    fn header_values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(key, _)| *key == name).map(|(_, value)| value.as_bytes())
    }
}
