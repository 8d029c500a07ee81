//! placeholder until the client is merged
use crate::compile::Context;
use crate::fault::Found;
use crate::snapshot::{ConfigPlace, ConfigSource};
use crate::view::View;
use std::time::Duration;

pub(crate) fn compile(view: &View<'_>, _context: &Context<'_>) -> Result<ConfigSource, Found> {
    view.required_which("config_source_specifier", &["ads"])?;
    Ok(ConfigSource {
        place: ConfigPlace::Ads,
        initial_fetch_timeout: view
            .timeout("initial_fetch_timeout", Some(Duration::from_secs(15)))?,
    })
}
