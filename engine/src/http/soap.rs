//! What SOAP adds to an exchange: the action and the operation that routes may match, and faults.
//!
//! | phase | the request's body |
//! |---|---|
//! | `Passing` | goes on as it comes |
//! | `Holding` | is looked at and kept: there is no route before the operation is known |
//! | `Handing` | goes on from what was kept, then as it comes |
//!
//! Invariants: what was kept leaves unchanged, in order, and before what comes later; no more is kept
//! than may be looked at, and the chunk that goes beyond.

use std::borrow::Cow;

use outrigger_codecs::http::{FieldBlock, FieldKind, Method, RequestHead};
use outrigger_codecs::soap::{OperationScanner, Scan, SoapRequest, SoapVersion};
use outrigger_xds::snapshot::SoapInspection;

use crate::buffers::{Arena, Chunk};
use crate::http2::BodyQueue;

use super::downstream::BodyEvent;
use super::filters::Filters;
use super::kept_head::{HeadSource, KeptHead};

/// One request's SOAP side; nothing for a request that is not SOAP.
#[derive(Default)]
pub(super) struct SoapCall {
    version: Option<SoapVersion>,
    phase: Phase,
    /// Kept from one exchange to the next, once one had to wait.
    held: Option<Box<Held>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Passing,
    Holding,
    Handing,
}

/// A request that waits for its operation.
pub(super) struct Held {
    head: KeptHead,
    scanner: OperationScanner,
    body: BodyQueue,
    /// The body is complete, with these trailers.
    end: Option<Option<Box<FieldBlock>>>,
}

/// What SOAP says of a request, as headers that exist for matching only.
pub(super) struct SoapHeaders<'a> {
    action: Option<Cow<'a, [u8]>>,
    operation: Option<&'a [u8]>,
}

impl<'a> SoapHeaders<'a> {
    /// Nothing where the filter is not configured. Where it is, requests that are not SOAP have
    /// neither header, whatever the client sent.
    pub(super) fn of(
        filters: &Filters,
        request: Option<SoapRequest<'a>>,
        operation: Option<&'a [u8]>,
    ) -> Option<Self> {
        filters.soap?;
        Some(Self { action: request.and_then(|request| request.action), operation })
    }

    /// The value of a header that is one of these; the name is in lower case.
    pub(super) fn value(&self, name: &str) -> Option<Option<&[u8]>> {
        match name {
            "x-soap-action" => Some(self.action.as_deref()),
            "x-soap-operation" => Some(self.operation),
            _ => None,
        }
    }
}

/// What the head of a request says of SOAP, where the filter is configured.
pub(super) fn soap_request<'a>(
    filters: &Filters,
    head: &RequestHead<'a, 'a>,
) -> Option<SoapRequest<'a>> {
    filters.soap?;
    let content_type = head.fields.iter().find(|field| field.kind == FieldKind::ContentType)?;
    let actions = head.fields.iter().filter(|field| field.name.eq_ignore_ascii_case("soapaction"));
    SoapRequest::of(content_type.value, actions.map(|field| field.value))
}

impl SoapCall {
    /// Notes what the request is.
    pub(super) fn accept(&mut self, request: Option<&SoapRequest<'_>>) {
        self.version = request.map(|request| request.version);
    }

    /// The version in which the client expects a failure to be told.
    pub(super) fn version(&self) -> Option<SoapVersion> {
        self.version
    }

    /// Holds a request back, if its body is to be looked at and can be.
    pub(super) fn hold(
        &mut self,
        filters: &Filters,
        head: &RequestHead<'_, '_>,
        request: Option<&SoapRequest<'_>>,
        source: HeadSource<'_>,
    ) -> bool {
        let Some(SoapInspection { bytes_max, .. }) = inspection(filters) else { return false };
        let is_readable = request.is_some_and(|request| request.readable);
        let is_tunnel = head.method == Method::Connect || head.upgrade.is_some();
        if !is_readable || is_tunnel || head.framing.is_empty() {
            return false;
        }
        let scanner = OperationScanner::new(bytes_max as usize, DEPTH_MAX);
        let held = self.held.get_or_insert_with(|| {
            let head = KeptHead::default();
            let (scanner, body) = (scanner.clone(), BodyQueue::default());
            Box::new(Held { head, scanner, body, end: None })
        });
        held.scanner = scanner;
        held.head.keep(head, source);
        self.phase = Phase::Holding;
        true
    }

    /// True while the request waits for its operation.
    #[inline]
    pub(super) fn is_holding(&self) -> bool {
        self.phase == Phase::Holding
    }

    /// Looks at bytes of the body and keeps them. True when there is nothing more to find out.
    pub(super) fn keep(&mut self, arena: &Arena, data: Chunk) -> bool {
        let Some(held) = &mut self.held else { return true };
        let scan = held.scanner.push(&data);
        held.body.push(arena, data);
        if let Scan::Nothing(why) = scan {
            log::debug!(target: "http", "a SOAP request has no operation: {why}");
        }
        scan != Scan::More
    }

    /// The body is complete.
    pub(super) fn keep_end(&mut self, trailers: Option<Box<FieldBlock>>) {
        if let Some(held) = &mut self.held {
            held.end = Some(trailers);
        }
    }

    /// The body's end was kept and not handed out yet: there is nothing more to read.
    pub(super) fn has_end(&self) -> bool {
        self.phase != Phase::Passing && self.held.as_ref().is_some_and(|held| held.end.is_some())
    }

    /// No longer holds the request back. What to find it again by is lent out: see
    /// [`SoapCall::give_back`].
    pub(super) fn release(&mut self) -> Option<Box<Held>> {
        self.phase = Phase::Handing;
        self.held.take()
    }

    /// Lends out what a request that goes on from what was kept is found by: see
    /// [`SoapCall::give_back`].
    pub(super) fn lend(&mut self) -> Option<Box<Held>> {
        if self.phase == Phase::Handing { self.held.take() } else { None }
    }

    /// Takes back what [`SoapCall::release`] or [`SoapCall::lend`] lent.
    pub(super) fn give_back(&mut self, held: Box<Held>) {
        self.held = Some(held);
    }

    /// The request is answered without having been routed.
    pub(super) fn abandon(&mut self) {
        if self.is_holding() {
            self.phase = Phase::Handing;
        }
    }

    /// What comes next of what was kept; nothing once it is all gone.
    #[inline]
    pub(super) fn next(&mut self) -> Option<BodyEvent> {
        if self.phase != Phase::Handing {
            return None;
        }
        self.next_kept()
    }

    fn next_kept(&mut self) -> Option<BodyEvent> {
        let held = self.held.as_mut()?;
        if let Some(data) = held.body.pop(usize::MAX) {
            return Some(BodyEvent::Data(data));
        }
        self.phase = Phase::Passing;
        held.end.take().map(BodyEvent::End)
    }

    /// Forgets everything but the memory.
    pub(super) fn clear(&mut self) {
        let mut held = self.held.take();
        if let Some(held) = &mut held {
            held.head.clear();
            held.body.clear();
            held.end = None;
        }
        *self = Self { held, ..Self::default() };
    }
}

impl Held {
    /// Its head.
    pub(super) fn head(&self) -> &KeptHead {
        &self.head
    }

    /// The operation, if it was found.
    pub(super) fn operation(&self) -> Option<&[u8]> {
        self.scanner.operation()
    }
}

/// How bodies are looked at, where they are.
pub(super) fn inspection(filters: &Filters) -> Option<SoapInspection> {
    filters.soap?.inspection
}

/// Elements of a SOAP header nest no deeper: security tokens, which nest deepest, have about ten
/// levels.
const DEPTH_MAX: u32 = 64;
