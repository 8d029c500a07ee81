//! SOAP over HTTP, as far as a proxy has to read it: what is called, and how a failure is told.
//!
//! | part | does |
//! |---|---|
//! | [`SoapRequest`] | tells a SOAP request by its header, and its action |
//! | [`OperationScanner`] | finds the first element of the SOAP body, which names the operation |
//! | [`put_fault`] | writes a fault |
//!
//! Sources: SOAP 1.1 (W3C Note, 8 May 2000) sections 4 and 6, SOAP 1.2 part 1 sections 5.1 to 5.4 and
//! part 2 section 7, RFC 3902 for the media type, XML 1.0. The invariant that matters: what is found
//! doesn't depend on how the bytes were split, and what a strict parser would refuse or read in
//! another way has no operation rather than a wrong one.

mod fault;
mod request;
mod scanner;

pub use fault::{FaultSide, put_fault};
pub use request::{SoapRequest, SoapVersion};
pub use scanner::{NoOperation, OperationScanner, Scan};
