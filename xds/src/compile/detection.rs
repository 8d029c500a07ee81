//! ProtocolDetection: which filter serves a connection, by its first bytes.

use std::time::Duration;

use crate::compile::{Context, invalid, terminal};
use crate::fault::{Found, Trail};
use crate::snapshot::{Codec, DetectedProtocol, ProtocolDetection, RpcProtocol, Terminal};
use crate::view::View;

pub(crate) fn compile(view: &View<'_>, context: &Context<'_>) -> Result<ProtocolDetection, Found> {
    let mut choices: Vec<(DetectedProtocol, Terminal)> = Vec::new();
    for choice in view.messages("choices") {
        let protocols = protocols(&choice)?;
        let Some(filter) = choice.message("filter") else { return Err(choice.required("filter")) };
        let terminal = terminal::detected(&filter, context)?;
        for (protocol, at) in protocols {
            if choices.iter().any(|(other, _)| *other == protocol) {
                return Err(invalid(at, "is there twice"));
            }
            if !speaks(&terminal, protocol) {
                return Err(invalid(at, "is not what the filter speaks"));
            }
            choices.push((protocol, terminal.clone()));
        }
    }
    if choices.is_empty() {
        return Err(view.required("choices"));
    }
    let fallback = match view.message("fallback") {
        Some(filter) => Some(Box::new(terminal::detected(&filter, context)?)),
        None => None,
    };
    Ok(ProtocolDetection {
        choices: choices.into(),
        fallback,
        timeout: view.positive_duration("timeout")?.unwrap_or(TIMEOUT),
    })
}

fn protocols(choice: &View<'_>) -> Result<Vec<(DetectedProtocol, Trail)>, Found> {
    let mut protocols = Vec::new();
    for (name, at) in choice.choices("protocols")? {
        let protocol = match name.as_str() {
            "HTTP1" => DetectedProtocol::Http1,
            "HTTP2" => DetectedProtocol::Http2,
            "BOLT" => DetectedProtocol::Bolt,
            "DUBBO" => DetectedProtocol::Dubbo,
            "HSF" => DetectedProtocol::Hsf,
            other => return Err(choice.unsupported("protocols", other)),
        };
        protocols.push((protocol, at));
    }
    if protocols.is_empty() { Err(choice.required("protocols")) } else { Ok(protocols) }
}

/// A choice that its filter could only fail on is a mistake.
fn speaks(terminal: &Terminal, protocol: DetectedProtocol) -> bool {
    use DetectedProtocol as Detected;
    match terminal {
        Terminal::Tcp(_) => true,
        Terminal::Http(http) => match protocol {
            Detected::Http1 => http.codec != Codec::Http2,
            Detected::Http2 => http.codec != Codec::Http1,
            _ => false,
        },
        Terminal::Rpc(rpc) => match rpc.protocol {
            RpcProtocol::Bolt { .. } => protocol == Detected::Bolt,
            RpcProtocol::Dubbo => protocol == Detected::Dubbo,
            RpcProtocol::Hsf { .. } => protocol == Detected::Hsf,
        },
        Terminal::Detect(_) | Terminal::Missing => false,
    }
}

/// Clients that speak first do so at once, but for the network; longer would only hold up the rest.
const TIMEOUT: Duration = Duration::from_secs(1);
