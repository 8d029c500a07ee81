//! Providers from a file, read again when it changes.
//!
//! A file that can't be read, or is wrong anywhere, changes nothing: what it said before holds.
//!
//! ```yaml
//! services:
//! - service: com.foo.Hello:1.0                # SOFARPC's unique name
//!   providers: ["10.0.0.5:12200?_WEIGHT=50"]  # SOFARPC's address strings
//! - providers:                                # Dubbo's URLs say everything
//!   - dubbo://10.0.0.5:20880/com.foo.Hello?group=g1&version=1.0.0
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_xds::services_config::ServiceProtocol;
use outrigger_xds::source::{self, SyntaxError};
use serde::Deserialize;
use thiserror::Error;
use tokio::time::MissedTickBehavior;

use super::super::name::{NameError, ServiceName};
use super::super::provider::{Provider, ProviderError};
use super::{Registry, Reports, Wants};

/// A file of providers.
#[derive(Debug)]
pub struct FileRegistry {
    /// YAML, or JSON where it ends in `.json`.
    pub path: PathBuf,
}

impl Registry for FileRegistry {
    async fn run(self, mut wanted: Wants, reports: Reports) {
        let mut contents = Contents::default();
        let mut told = BTreeSet::new();
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_new = tokio::select! {
                _ = ticks.tick() => contents.refresh(&self.path, &reports).await,
                changed = wanted.changed() => match changed {
                    Ok(()) => false,
                    Err(_) => return,
                },
            };
            let now = Arc::clone(&wanted.borrow_and_update());
            reports.registered(&now);
            let lookups = now.lookups.clone();
            reports.stats.subscribed.set(lookups.len() as u64);
            let Some(providers) = &contents.providers else { continue };
            for lookup in lookups.iter().filter(|lookup| is_new || !told.contains(*lookup)) {
                let found = providers.iter().filter(|provider| lookup.takes(&provider.name));
                reports.providers(lookup, found.cloned().collect()).await;
            }
            told = lookups;
            if is_new {
                reports.back().await;
            }
        }
    }
}

/// What the file said when it was last good.
#[derive(Default)]
struct Contents {
    /// Nothing before it was good for the first time.
    providers: Option<Vec<Provider>>,
    /// The file that was last looked at, good or bad; nothing when there was none.
    stamp: Option<Stamp>,
    /// What is wrong with it now.
    fault: Option<String>,
}

/// When a file was changed, and its length.
type Stamp = (SystemTime, u64);

impl Contents {
    /// Reads the file if it changed; true when it says something new.
    async fn refresh(&mut self, path: &Path, reports: &Reports) -> bool {
        let (path, known) = (path.to_owned(), self.stamp);
        let shown = path.display().to_string();
        // A disk may be slow, or not there.
        let looked = tokio::task::spawn_blocking(move || look(&path, known)).await;
        let (stamp, read) = match looked {
            Ok(Ok(None)) | Err(_) => return false,
            Ok(Ok(Some((stamp, read)))) => (Some(stamp), read),
            Ok(Err(error)) => (None, Err(FileError::Read(error))),
        };
        self.stamp = stamp;
        let source = &reports.source;
        match read {
            Ok((providers, ignored)) => {
                log::info!("registry {source}: {} providers in {shown}", providers.len());
                for (entry, error) in &ignored {
                    log::warn!("registry {source}: {entry:?} is left out: {error}");
                }
                reports.stats.provider_ignored.add(ignored.len() as u64);
                reports.stats.providers.set(providers.len() as u64);
                reports.stats.connected.set(1);
                self.providers = Some(providers);
                self.fault = None;
                true
            }
            Err(error) => {
                let fault = Some(error.to_string());
                if self.fault != fault {
                    log::error!("registry {source}: {shown}: {error}; what it said before holds");
                    self.fault = fault;
                    reports.stats.update_fail.inc();
                    reports.lost().await;
                }
                false
            }
        }
    }
}

/// Providers, and what is none.
type Read = (Vec<Provider>, Vec<(String, ProviderError)>);

/// Nothing when the file is as `known`.
fn look(
    path: &Path,
    known: Option<Stamp>,
) -> std::io::Result<Option<(Stamp, Result<Read, FileError>)>> {
    let metadata = std::fs::metadata(path)?;
    let stamp = (metadata.modified()?, metadata.len());
    if known == Some(stamp) {
        return Ok(None);
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Ok(Some((stamp, Err(FileError::TooLarge))));
    }
    let text = std::fs::read_to_string(path)?;
    Ok(Some((stamp, parse(&path.display().to_string(), &text))))
}

/// Why a file is not used.
#[derive(Debug, Error)]
enum FileError {
    #[error("{0}")]
    Read(std::io::Error),
    #[error("larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    #[error("{0}")]
    Shape(String),
    #[error("services[{0}].service: {1}")]
    Name(usize, NameError),
    #[error("more than {PROVIDERS_MAX} providers")]
    TooMany,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    services: Vec<Service>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    /// SOFARPC's unique name; with Dubbo's URLs there is none.
    service: Option<String>,
    providers: Vec<String>,
}

fn parse(name: &str, text: &str) -> Result<Read, FileError> {
    let values = source::values(name, text)?;
    let file: File =
        serde_json::from_value(values).map_err(|error| FileError::Shape(error.to_string()))?;
    let (mut providers, mut ignored) = (Vec::new(), Vec::new());
    for (index, Service { service, providers: entries }) in file.services.into_iter().enumerate() {
        let name = service.map(|name| ServiceName::bolt(&name)).transpose();
        let name = name.map_err(|error| FileError::Name(index, error))?;
        for entry in entries {
            let provider = match &name {
                Some(name) => Provider::from_address(&entry, name),
                None => Provider::from_url(&entry, ServiceProtocol::Dubbo, ""),
            };
            match provider {
                Ok(provider) => providers.push(provider),
                Err(error) => ignored.push((entry, error)),
            }
            if providers.len() + ignored.len() > PROVIDERS_MAX {
                return Err(FileError::TooMany);
            }
        }
    }
    Ok((providers, ignored))
}

/// How often the file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Larger is no list of providers.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Providers in one file.
const PROVIDERS_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, watch};

    use super::super::{Report, Wanted};
    use super::*;

    #[test]
    fn files_have_both_kinds_of_providers() {
        let text = "
services:
- service: com.foo.Hello:1.0
  providers: ['10.0.0.5:12200?_WEIGHT=50', 'host:1']
- providers: ['dubbo://10.0.0.6:20880/com.foo.Bye?group=g&version=2']
";
        let (providers, ignored) = parse("a.yaml", text).unwrap();
        let keys: Vec<_> = providers.iter().map(|one| one.name.to_string()).collect();
        assert_eq!(keys, ["bolt com.foo.Hello:1.0", "dubbo g/com.foo.Bye:2"]);
        assert_eq!((providers[0].weight, ignored.len()), (50, 1));
        assert!(parse("a.json", "{\"services\": []}").unwrap().0.is_empty());
        for (text, fault) in [
            ("services: [", "a.yaml:1:"),
            ("service: []", "unknown field `service`"),
            ("services: [{providers: [], service: 'a b'}]", "services[0].service: "),
            ("services: [{service: a}]", "missing field `providers`"),
        ] {
            let error = parse("a.yaml", text).unwrap_err().to_string();
            assert!(error.contains(fault), "{error}");
        }
    }

    #[tokio::test]
    async fn changes_are_followed_and_bad_files_change_nothing() {
        let directory = std::env::temp_dir().join(format!("outrigger-file-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("services.json");
        let write = |text: &str| {
            let new = directory.join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        let lookup = Arc::new(ServiceName::bolt("I").unwrap());
        let lookups = BTreeSet::from([Arc::clone(&lookup)]);
        let (want, wanted) = watch::channel(Arc::new(Wanted { lookups, ..Wanted::default() }));
        let (sender, mut reports) = mpsc::channel(4);
        let registry = FileRegistry { path: path.clone() };
        let running =
            tokio::spawn(registry.run(wanted, Reports::new("f".into(), Arc::default(), sender)));
        let mut next = async || {
            let next = tokio::time::timeout(Duration::from_secs(20), reports.recv());
            next.await.unwrap().unwrap().1
        };
        let count = |report: Report| match report {
            Report::Providers { providers, .. } => providers.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(next().await, Report::Lost);
        write(r#"{"services": [{"service": "I", "providers": ["1.1.1.1:1", "1.1.1.1:2"]}]}"#);
        assert_eq!(count(next().await), 2);
        assert_eq!(next().await, Report::Back);
        write("{");
        assert_eq!(next().await, Report::Lost);
        write(r#"{"services": [{"service": "I", "providers": ["1.1.1.1:1"]}]}"#);
        assert_eq!(count(next().await), 1);
        assert_eq!(next().await, Report::Back);
        drop(want);
        running.await.unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
