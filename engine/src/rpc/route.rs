//! Choosing a request's route and cluster.

use std::rc::Rc;

use outrigger_codecs::rpc::{Call, Frame, HeaderEdit, RpcCodec};
use outrigger_xds::snapshot::{
    RpcHeaderMatcher, RpcHeaderOp, RpcMatcher, RpcRoute, RpcRouteTable, RpcTarget, StringMatcher,
};

use crate::cluster::{ClusterRuntime, Serving};

use super::RpcRuntime;

/// A request as routes see it.
pub(super) struct Request<'a> {
    /// What it is routed by.
    pub(super) call: Call<'a>,
    /// Its fixed part.
    pub(super) frame: &'a Frame,
    /// All of it.
    pub(super) bytes: &'a [u8],
    /// What it is written in.
    pub(super) codec: &'a dyn RpcCodec,
}

impl<'a> Request<'a> {
    /// The value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.last_header(|key| key == name.as_bytes())
    }

    /// The same for a name of which only the lower case is known.
    pub(super) fn header_ignoring_case(&self, name: &str) -> Option<&'a [u8]> {
        self.last_header(|key| key.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Of a repeated header the last counts (bolt.md section 3.6).
    fn last_header(&self, is_it: impl Fn(&[u8]) -> bool) -> Option<&'a [u8]> {
        let mut found = None;
        self.codec.headers(self.frame, self.bytes, &mut |key, value| {
            if is_it(key) {
                found = Some(value);
            }
            true
        });
        found
    }

    /// The first route that matches, and its index.
    pub(super) fn route<'r>(
        &self,
        table: &'r RpcRouteTable,
        random: u64,
    ) -> Option<(u32, &'r RpcRoute)> {
        let mut routes = (0..).zip(&table.routes);
        routes.find(|(_, route)| self.matches(&route.matcher, random))
    }

    fn matches(&self, matcher: &RpcMatcher, random: u64) -> bool {
        let text = |wanted: &Option<StringMatcher>, value: &[u8]| {
            wanted.as_ref().is_none_or(|wanted| wanted.matches(value))
        };
        matcher.service.as_ref().is_none_or(|wanted| wanted.matches(self.call.service))
            && text(&matcher.method, self.call.method)
            && text(&matcher.version, self.call.version)
            && text(&matcher.group, self.call.group)
            && matcher.headers.iter().all(|header| self.has(header))
            && matcher.fraction.as_ref().is_none_or(|fraction| fraction.contains(random))
    }

    fn has(&self, matcher: &RpcHeaderMatcher) -> bool {
        matcher.holds(self.last_header(|name| matcher.is_about(name)))
    }

    /// The cluster that a target leads to; nothing when there is none.
    pub(super) fn cluster(
        &self,
        rpc: &RpcRuntime,
        target: &RpcTarget,
        serving: &Serving,
        random: u64,
    ) -> Option<Rc<ClusterRuntime>> {
        match target {
            RpcTarget::Cluster(cluster) => serving.cluster(cluster.id()),
            RpcTarget::Weighted(clusters) => serving.cluster(clusters.pick(random).id()),
            RpcTarget::Header(name) => {
                serving.cluster_by_name(std::str::from_utf8(self.header(name)?).ok()?)
            }
            RpcTarget::Service(side) => {
                let mut key = rpc.scratch.borrow_mut();
                key.clear();
                self.codec.put_service_key(&self.call, &mut *key);
                serving.service(*side, &rpc.config.protocol, &key)
            }
        }
    }
}

/// An edit of the configuration as the codecs take it.
pub(super) fn header_edit(op: &RpcHeaderOp) -> HeaderEdit<'_> {
    match op {
        RpcHeaderOp::Remove(name) => HeaderEdit::Remove(name.as_bytes()),
        RpcHeaderOp::Set(name, value) => HeaderEdit::Set(name.as_bytes(), value.as_bytes()),
        RpcHeaderOp::SetIfAbsent(name, value) => {
            HeaderEdit::SetIfAbsent(name.as_bytes(), value.as_bytes())
        }
        RpcHeaderOp::Replace(name, value) => HeaderEdit::Replace(name.as_bytes(), value.as_bytes()),
    }
}
