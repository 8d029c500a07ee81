//! What concerns the process itself: its log, statistics and limits (contract section 1).

use crate::compile::runtime::Runtime;
use crate::compile::{Notes, as_u32, invalid, matcher};
use crate::fault::Found;
use crate::process_config::{
    DEFAULT_TAGS, ProcessConfig, StatSelection, StatTag, StatTagValue, StatsConfig,
};
use crate::snapshot::{Finder, StringMatcher};

use crate::view::View;

pub(crate) fn compile(
    bootstrap: &View<'_>,
    runtime: &Runtime,
    notes: &Notes,
) -> Result<ProcessConfig, Found> {
    extensions(bootstrap, notes)?;
    Ok(ProcessConfig {
        log_format: log_format(bootstrap)?,
        stats: match bootstrap.message("stats_config") {
            Some(stats) => self::stats(&stats)?,
            None => StatsConfig::default(),
        },
        connections_max: connections_max(bootstrap, runtime)?,
    })
}

fn log_format(bootstrap: &View<'_>) -> Result<Option<Box<str>>, Found> {
    let Some(config) = bootstrap.message("application_log_config") else { return Ok(None) };
    let Some(format) = config.message("log_format") else { return Ok(None) };
    match format.required_which("log_format", &["json_format", "text_format"])? {
        "text_format" => Ok(Some(format.required_text("text_format")?.into())),
        field => {
            let json = format.json(field).unwrap_or_default().to_string();
            // As they are, messages would end the text that they stand in.
            match ["%v", "%_"].into_iter().find(|flag| json.contains(flag)) {
                Some(flag) => Err(format.invalid(field, format!("{flag} is not for JSON: use %j"))),
                None => Ok(Some(json.into())),
            }
        }
    }
}

fn stats(view: &View<'_>) -> Result<StatsConfig, Found> {
    let mut tags = Vec::new();
    let mut named: Vec<Box<str>> = Vec::new();
    let is_default = view.wrapped_flag("use_all_default_tags").unwrap_or(true);
    let overrides = view.wrapped_flag("allow_default_tag_overrides").unwrap_or(false);
    for tag in view.messages("stats_tags") {
        let name = tag.text("tag_name");
        let known = DEFAULT_TAGS.contains(&name);
        let twice = tags.iter().any(|tag: &StatTag| *tag.name == *name);
        if twice || (known && is_default && !overrides) {
            return Err(tag.invalid("tag_name", format!("{name:?} is there already")));
        }
        let value = match tag.which(&["regex", "fixed_value"]) {
            Some("fixed_value") => StatTagValue::Fixed(tag.text("fixed_value").into()),
            Some(_) if tag.text("regex").len() > TAG_REGEX_BYTES_MAX => {
                let text = format!("is longer than {TAG_REGEX_BYTES_MAX} bytes");
                return Err(tag.invalid("regex", text));
            }
            Some(_) => StatTagValue::Found(
                Finder::new(tag.text("regex"))
                    .map_err(|error| tag.invalid("regex", error.to_string()))?,
            ),
            None if known => {
                named.push(Box::from(name));
                continue;
            }
            None => return Err(tag.invalid("tag_name", "has no regex, and is not a default tag")),
        };
        tags.push(StatTag { name: name.into(), value });
    }
    // A tag of one's own takes the default's place.
    let default_tags = if is_default && tags.iter().all(|tag| !DEFAULT_TAGS.contains(&&*tag.name)) {
        None
    } else {
        if is_default {
            named = DEFAULT_TAGS.iter().map(|name| Box::from(*name)).collect();
        }
        named.retain(|name| tags.iter().all(|tag| tag.name != *name));
        Some(named.into())
    };
    let buckets = view.messages("histogram_bucket_settings");
    Ok(StatsConfig {
        selection: match view.message("stats_matcher") {
            Some(matcher) => selection(&matcher)?,
            None => StatSelection::All,
        },
        tags: tags.into(),
        default_tags,
        buckets: buckets.iter().map(self::buckets).collect::<Result<_, Found>>()?,
    })
}

fn selection(view: &View<'_>) -> Result<StatSelection, Found> {
    let kinds = ["reject_all", "exclusion_list", "inclusion_list"];
    let field = view.required_which("stats_matcher", &kinds)?;
    if field == "reject_all" {
        let is_set = view.flag(field);
        return Ok(if is_set { StatSelection::Nothing } else { StatSelection::All });
    }
    let patterns = view.message(field).map(|list| list.messages("patterns")).unwrap_or_default();
    let list = patterns.iter().map(matcher::string).collect::<Result<_, Found>>()?;
    Ok(if field == "inclusion_list" {
        StatSelection::Only(list)
    } else {
        StatSelection::Except(list)
    })
}

fn buckets(view: &View<'_>) -> Result<(StringMatcher, Box<[f64]>), Found> {
    let Some(matcher) = view.message("match") else { return Err(view.required("match")) };
    let mut bounds = view.f64s("buckets");
    if bounds.iter().any(|bound| bound.is_nan() || *bound <= 0.0) {
        return Err(view.invalid("buckets", "must be above zero"));
    }
    bounds.sort_by(f64::total_cmp);
    if bounds.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(view.invalid("buckets", "must be different from each other"));
    }
    Ok((matcher::string(&matcher)?, bounds.into()))
}

/// The overload manager's limit, or the runtime key that Envoy had before it.
fn connections_max(bootstrap: &View<'_>, runtime: &Runtime) -> Result<Option<u32>, Found> {
    let Some(manager) = bootstrap.message("overload_manager") else {
        return Ok(runtime.get(CONNECTIONS_KEY).as_ref().and_then(as_u32));
    };
    let monitors = manager.messages("resource_monitors");
    if monitors.is_empty() {
        return Err(manager.required("resource_monitors"));
    }
    let mut limit = None;
    for monitor in &monitors {
        let Some(inner) = monitor.unpack("typed_config")? else { continue };
        if inner.kind() != DOWNSTREAM_CONNECTIONS {
            return Err(inner.refuse());
        }
        let config = inner.view(monitor.schema());
        let field = "max_active_downstream_connections";
        let configured = config.i64(field);
        if configured <= 0 {
            return Err(config.invalid(field, "must be above zero"));
        }
        if limit.replace(u32::try_from(configured).unwrap_or(u32::MAX)).is_some() {
            return Err(invalid(monitor.at("typed_config"), "there may be one limit only"));
        }
    }
    Ok(limit)
}

/// Extensions that need nothing of us here.
fn extensions(bootstrap: &View<'_>, notes: &Notes) -> Result<(), Found> {
    for extension in bootstrap.messages("bootstrap_extensions") {
        let Some(inner) = extension.unpack("typed_config")? else { continue };
        match inner.kind().as_str() {
            INTERNAL_LISTENER => {}
            WORKLOAD_DISCOVERY => notes.advise(
                extension.at("typed_config"),
                "workloads are not looked up: peers that do not tell who they are stay unknown",
            ),
            _ => return Err(inner.refuse()),
        }
    }
    Ok(())
}

const CONNECTIONS_KEY: &str = "overload.global_downstream_max_connections";
const DOWNSTREAM_CONNECTIONS: &str =
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";
const INTERNAL_LISTENER: &str = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener";
const WORKLOAD_DISCOVERY: &str = "istio.workload.BootstrapExtension";

/// Envoy's own bound.
const TAG_REGEX_BYTES_MAX: usize = 1024;
