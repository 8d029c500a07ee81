//! ProtocolDetection: which filter serves a connection, by its first bytes.

use std::sync::Arc;
use std::time::Duration;

use crate::compile::terminal::{self, Last};
use crate::compile::{Context, invalid};
use crate::fault::{Found, Trail};
use crate::snapshot::{
    Codec, DetectedProtocol, FilterDiscovery, ProtocolDetection, RpcProtocol, Terminal,
};
use crate::view::View;

pub(crate) fn compile(view: &View<'_>, context: &Context<'_>) -> Result<ProtocolDetection, Found> {
    let mut choices: Vec<(DetectedProtocol, Terminal)> = Vec::new();
    let mut by_name: Vec<(usize, Arc<FilterDiscovery>)> = Vec::new();
    for choice in view.messages("choices") {
        let protocols = protocols(&choice)?;
        let Some(filter) = choice.message("filter") else { return Err(choice.required("filter")) };
        let Last { terminal, discovered } = terminal::detected(&filter, context)?;
        for (protocol, at) in protocols {
            if choices.iter().any(|(other, _)| *other == protocol) {
                return Err(invalid(at, "is there twice"));
            }
            if !speaks(&terminal, protocol) {
                return Err(invalid(at, "is not what the filter speaks"));
            }
            by_name.extend(discovered.iter().map(|wanted| (choices.len(), Arc::clone(wanted))));
            choices.push((protocol, terminal.clone()));
        }
    }
    if choices.is_empty() {
        return Err(view.required("choices"));
    }
    let fallback = match view.message("fallback") {
        Some(filter) => {
            let Last { terminal, discovered } = terminal::detected(&filter, context)?;
            by_name.extend(discovered.map(|wanted| (choices.len(), wanted)));
            Some(Box::new(terminal))
        }
        None => None,
    };
    Ok(ProtocolDetection {
        choices: choices.into(),
        fallback,
        discovered: by_name.into(),
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

/// Whether the last filter of a chain chooses one that can't serve what it is chosen for, now that names
/// stand for something.
pub(crate) fn is_mistaken(terminal: &Terminal) -> bool {
    match terminal {
        Terminal::Detect(detection) => {
            detection.choices.iter().any(|(protocol, choice)| !speaks(choice, *protocol))
        }
        _ => false,
    }
}

/// A choice that its filter could only fail on is a mistake; one that is to come is none yet.
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
        Terminal::Missing => true,
        Terminal::Detect(_) => false,
    }
}

/// Clients that speak first do so at once, but for the network; longer would only hold up the rest.
const TIMEOUT: Duration = Duration::from_secs(1);
