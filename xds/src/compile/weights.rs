//! The weights of route.v3.WeightedCluster.

use crate::compile::{Context, as_u32};
use crate::fault::Found;
use crate::view::View;

/// One of the clusters.
pub(crate) struct Weighted<'a> {
    pub(crate) view: View<'a>,
    pub(crate) weight: u32,
    /// Of the weights up to and with this one; the last is above zero.
    pub(crate) sum: u32,
}

/// At least one.
pub(crate) fn compile<'a>(
    view: &View<'a>,
    context: &Context<'_>,
) -> Result<Vec<Weighted<'a>>, Found> {
    let mut clusters = Vec::new();
    let mut total = 0u64;
    for entry in view.messages("clusters") {
        let weight = weight(view, &entry, context)?;
        total += u64::from(weight);
        let Ok(sum) = u32::try_from(total) else {
            let text = format!("weights must add up to at most {}", u32::MAX);
            return Err(view.invalid("clusters", text));
        };
        clusters.push(Weighted { view: entry, weight, sum });
    }
    if total == 0 {
        return Err(view.invalid("clusters", "weights must add up to at least 1"));
    }
    match view.wrapped_u32("total_weight") {
        Some(said) if u64::from(said) != total => {
            Err(view.invalid("total_weight", format!("the weights add up to {total}")))
        }
        _ => Ok(clusters),
    }
}

/// The configured weight, or what the runtime says under `prefix.name`.
fn weight(view: &View<'_>, entry: &View<'_>, context: &Context<'_>) -> Result<u32, Found> {
    let Some(weight) = entry.wrapped_u32("weight") else {
        return Err(entry.required("weight"));
    };
    let prefix = view.text("runtime_key_prefix");
    if prefix.is_empty() {
        return Ok(weight);
    }
    let key = format!("{prefix}.{}", entry.text("name"));
    Ok(context.runtime.get(&key).and_then(|value| as_u32(&value)).unwrap_or(weight))
}
