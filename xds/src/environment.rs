//! What the environment says of the node, as Istio's images are told it (xds.md B4): `ISTIO_META_X=text`
//! is the node's metadata `X`, `ISTIO_METAJSON_X=json` the same as a structure.

use serde_json::{Map, Value as Json};
use thiserror::Error;

/// A variable that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("environment variable {name}: {error}")]
pub struct EnvironmentError {
    /// Its name.
    name: String,
    /// What is wrong with it.
    error: String,
}

/// The metadata that `variables` have.
///
/// # Errors
/// If something that should be JSON is not.
pub fn node_metadata(
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Map<String, Json>, EnvironmentError> {
    let mut metadata = Map::new();
    for (name, value) in variables {
        if let Some(key) = name.strip_prefix(TEXT).filter(|key| !key.is_empty()) {
            metadata.insert(key.to_owned(), Json::String(value));
        } else if let Some(key) = name.strip_prefix(STRUCTURE).filter(|key| !key.is_empty()) {
            let key = key.to_owned();
            let value = serde_json::from_str(&value).map_err(|error| EnvironmentError {
                name: name.clone(),
                error: error.to_string(),
            })?;
            metadata.insert(key, value);
        }
    }
    Ok(metadata)
}

const TEXT: &str = "ISTIO_META_";
const STRUCTURE: &str = "ISTIO_METAJSON_";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(variables: &[(&str, &str)]) -> Result<Json, String> {
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        node_metadata(variables).map(Json::Object).map_err(|error| error.to_string())
    }

    #[test]
    fn text_and_structures_are_metadata() {
        let found = metadata(&[
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("ISTIO_METAJSON_LABELS", r#"{"app": "a", "version": "v1"}"#),
            ("ISTIO_METADATA", "not this"),
            ("ISTIO_META_", "nor this"),
            ("PATH", "/bin"),
        ]);
        let expected = json!({"CLUSTER_ID": "Kubernetes", "LABELS": {"app": "a", "version": "v1"}});
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn what_should_be_json_is() {
        let error = metadata(&[("ISTIO_METAJSON_LABELS", "{app: a}")]).unwrap_err();
        assert!(
            error.starts_with("environment variable ISTIO_METAJSON_LABELS: key must"),
            "{error}"
        );
    }
}
