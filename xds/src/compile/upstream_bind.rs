//! BindConfig: where upstream connections come from (contract section 10, `upstream_bind_config`).

use crate::compile::address;
use crate::fault::Found;
use crate::snapshot::{BindSource, SocketOption, SocketOptionState, UpstreamBind};
use crate::view::View;

pub(crate) fn compile(view: &View<'_>) -> Result<UpstreamBind, Found> {
    let socket_options = options(view)?;
    let mut bind = UpstreamBind {
        sources: Vec::new(),
        freebind: view.wrapped_flag("freebind").unwrap_or(false),
        socket_options,
    };
    let Some(first) = view.message("source_address") else {
        if view.has("extra_source_addresses") {
            return Err(view.required("source_address"));
        }
        return Ok(bind);
    };
    let address = address::socket(&first)?;
    bind.sources.push(BindSource { address, socket_options: bind.socket_options.clone() });
    for extra in view.messages("extra_source_addresses") {
        let Some(location) = extra.message("address") else {
            return Err(extra.required("address"));
        };
        let address = address::socket(&location)?;
        if bind.source(address.ip()).is_some() {
            // The first of a family is used for all of it.
            let text = "there is one of this family already";
            return Err(location.invalid("address", text));
        }
        // Options given here replace the others, even by an empty list.
        let socket_options = match extra.message("socket_options") {
            Some(own) => options(&own)?,
            None => bind.socket_options.clone(),
        };
        bind.sources.push(BindSource { address, socket_options });
    }
    Ok(bind)
}

fn options(view: &View<'_>) -> Result<Vec<SocketOption>, Found> {
    let option = |view: &View<'_>| {
        let option = address::socket_option(view)?;
        if option.state == SocketOptionState::Listening {
            return Err(view.invalid("state", "upstream sockets do not listen"));
        }
        Ok(option)
    };
    view.messages("socket_options").iter().map(option).collect()
}
