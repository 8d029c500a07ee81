//! Layers of the runtime on disk: a directory of files, a key each, that is replaced as a whole by
//! turning a link around (contract section 1, `disk_layer`).
//!
//! Invariant: values are those of one reading of the whole directory; one that can't be read leaves
//! those of the last.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value as Json;

use crate::fault::Found;
use crate::source::{self, Format, Text};
use crate::view::View;

/// Where a layer is.
#[derive(Debug, Clone)]
pub(crate) struct DiskLayer {
    /// A link, of which only what it leads to is looked at again and again.
    root: PathBuf,
    /// Below it, where the files are.
    below: PathBuf,
    /// Nothing before the first look.
    seen: Option<Option<Seen>>,
}

/// What a link led to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    modified: Option<SystemTime>,
}

/// Why a layer can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("{}: {error}", path.display())]
    System { path: PathBuf, error: io::Error },
    #[error("{}: {text}", path.display())]
    Limit { path: PathBuf, text: &'static str },
}

impl DiskLayer {
    /// RuntimeLayer.DiskLayer; `cluster` is the node's.
    pub(crate) fn compile(view: &View<'_>, cluster: &str) -> Result<DiskLayer, Found> {
        let root = PathBuf::from(view.required_text("symlink_root")?);
        let mut below = PathBuf::from(view.text("subdirectory"));
        if view.flag("append_service_cluster") {
            below.push(cluster);
        }
        Ok(DiskLayer { root, below, seen: None })
    }

    /// The values, if they are others than last time. A directory that is not there has none.
    ///
    /// # Errors
    /// When they can't be read; told once for what the link leads to now.
    pub(crate) fn refresh(&mut self) -> Option<Result<HashMap<String, Json>, DiskError>> {
        let seen = Seen::of(&self.root);
        if self.seen.as_ref() == Some(&seen) {
            return None;
        }
        let is_there = seen.is_some();
        self.seen = Some(seen);
        if !is_there {
            return Some(Ok(HashMap::new()));
        }
        let directory = self.root.join(&self.below);
        let mut values = HashMap::new();
        Some(match read_directory(&directory, "", DEPTH_MAX, &mut values) {
            Err(DiskError::System { path, error })
                if path == directory && error.kind() == io::ErrorKind::NotFound =>
            {
                Ok(HashMap::new())
            }
            read => read.map(|()| values),
        })
    }
}

impl Seen {
    fn of(root: &Path) -> Option<Seen> {
        let path = fs::canonicalize(root).ok()?;
        let modified = fs::metadata(&path).ok()?.modified().ok();
        Some(Seen { path, modified })
    }
}

fn read_directory(
    directory: &Path,
    prefix: &str,
    depth: usize,
    values: &mut HashMap<String, Json>,
) -> Result<(), DiskError> {
    let system = |path: &Path| {
        let path = path.to_owned();
        move |error| DiskError::System { path, error }
    };
    for entry in fs::read_dir(directory).map_err(system(directory))? {
        let entry = entry.map_err(system(directory))?;
        let path = entry.path();
        let limit = |text| DiskError::Limit { path: path.clone(), text };
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        let key = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        let metadata = fs::metadata(&path).map_err(system(&path))?;
        if metadata.is_dir() {
            if depth == 0 {
                return Err(limit("directories are too deep"));
            }
            read_directory(&path, &key, depth - 1, values)?;
            continue;
        }
        if values.len() == VALUES_MAX {
            return Err(limit("more files than there may be"));
        }
        let mut text = String::new();
        let file = fs::File::open(&path).map_err(system(&path))?;
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(system(&path))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(limit("is longer than a value may be"));
        }
        values.insert(key, value(&text));
    }
    Ok(())
}

/// What a file says, without lines that begin with `#`: YAML, as Envoy takes it, or else plain text.
fn value(text: &str) -> Json {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let text = lines.join("\n").trim().to_owned();
    let yaml = Text { name: String::new(), text: text.clone(), format: Format::Yaml };
    match source::parse(&yaml) {
        Ok(value @ (Json::Number(_) | Json::Bool(_) | Json::Object(_))) => value,
        _ => Json::String(text),
    }
}

/// Keys have few parts; a link that leads back up has an end here.
const DEPTH_MAX: usize = 16;
const VALUES_MAX: usize = 10_000;
const FILE_BYTES_MAX: u64 = 65_536;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let name = format!("outrigger-runtime-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Directory(path)
        }

        fn put(&self, name: &str, text: &str) {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn layer(&self) -> DiskLayer {
            DiskLayer { root: self.0.join("current"), below: "envoy".into(), seen: None }
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn files_are_keys_and_a_turned_link_is_another_layer() {
        let directory = Directory::new("turned");
        directory.put("one/envoy/routing/canary", "# percent\n25\n");
        directory.put("one/envoy/fraction", "numerator: 5\ndenominator: TEN_THOUSAND\n");
        directory.put("one/envoy/text", "some words");
        directory.put("one/envoy/.hidden", "1");
        directory.put("two/envoy/routing/canary", "50");
        let link = directory.0.join("current");
        let mut layer = directory.layer();
        // Not there yet.
        assert_eq!(layer.refresh().unwrap().unwrap(), HashMap::new());
        symlink("one", &link).unwrap();
        let values = layer.refresh().unwrap().unwrap();
        assert_eq!(values["routing.canary"], json!(25));
        assert_eq!(values["fraction"], json!({"numerator": 5, "denominator": "TEN_THOUSAND"}));
        assert_eq!(values["text"], json!("some words"));
        assert_eq!(values.len(), 3);
        assert!(layer.refresh().is_none());
        let turned = directory.0.join("turned");
        symlink("two", &turned).unwrap();
        fs::rename(&turned, &link).unwrap();
        assert_eq!(
            layer.refresh().unwrap().unwrap(),
            HashMap::from([("routing.canary".to_owned(), json!(50))])
        );
    }

    #[test]
    fn what_is_too_large_is_an_error() {
        let directory = Directory::new("large");
        directory.put("one/envoy/key", &"x".repeat(70_000));
        symlink("one", directory.0.join("current")).unwrap();
        let error = directory.layer().refresh().unwrap().unwrap_err();
        assert!(error.to_string().ends_with("key: is longer than a value may be"), "{error}");
    }

    #[test]
    fn links_in_circles_have_an_end() {
        let directory = Directory::new("circle");
        directory.put("one/envoy/key", "1");
        symlink(".", directory.0.join("one/envoy/again")).unwrap();
        symlink("one", directory.0.join("current")).unwrap();
        let error = directory.layer().refresh().unwrap().unwrap_err();
        assert!(error.to_string().ends_with("directories are too deep"), "{error}");
    }
}
