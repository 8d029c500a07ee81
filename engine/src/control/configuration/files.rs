//! Files of resources: read when they are first asked for, and again when they were replaced.
//!
//! A change is seen by what a path leads to, so that it does not matter how it was made: written over,
//! renamed, or by turning a link around. Invariant: a file that can't be read changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use outrigger_xds::client::ResourceType;
use outrigger_xds::snapshot::{ConfigPlace, PathConfigSource};
use outrigger_xds::store::{Host, Interest, Store};

use super::sources::Counted;

#[derive(Default)]
pub(super) struct Files {
    all: Vec<File>,
}

/// A file and the type that is asked of it.
struct File {
    place: ConfigPlace,
    source: Arc<PathConfigSource>,
    kind: ResourceType,
    wants_all: bool,
    names: BTreeSet<Arc<str>>,
    /// What was accepted of everything, to see what is gone.
    held: BTreeSet<Arc<str>>,
    /// What was read last; nothing before, and when something new is asked for.
    read: Option<Stamp>,
    counted: Counted,
}

/// Which content a path leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Stamp> {
        let metadata = fs::metadata(path).ok()?;
        Some(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

impl Files {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Takes an interest in a file; false when it is in something else.
    pub(super) fn ask(&mut self, interest: &Interest) -> bool {
        match interest {
            Interest::All(kind, source) => {
                let Some(file) = self.file(&source.place, *kind) else { return false };
                file.wants_all = true;
                file.read = None;
            }
            Interest::One(kind, source, name) => {
                let Some(file) = self.file(&source.place, *kind) else { return false };
                file.names.insert(Arc::clone(name));
                file.read = None;
            }
            Interest::Again(kind, place, _) => return self.file(place, *kind).is_some(),
            Interest::None(kind, place, name) => {
                let Some(file) = self.file(place, *kind) else { return false };
                file.names.remove(name);
                if &**name == EVERYTHING {
                    file.wants_all = false;
                    file.held.clear();
                }
            }
        }
        true
    }

    fn file(&mut self, place: &ConfigPlace, kind: ResourceType) -> Option<&mut File> {
        let ConfigPlace::Path(source) = place else { return None };
        let known = |file: &File| file.place == *place && file.kind == kind;
        let at = self.all.iter().position(known).unwrap_or_else(|| {
            self.all.push(File {
                place: place.clone(),
                source: Arc::clone(source),
                kind,
                wants_all: false,
                names: BTreeSet::new(),
                held: BTreeSet::new(),
                read: None,
                counted: Counted::default(),
            });
            self.all.len() - 1
        });
        self.all.get_mut(at)
    }

    /// Reads the files that were replaced, or of which something new is wanted.
    pub(super) fn look(&mut self, store: &mut Store, host: &mut dyn Host) {
        for file in &mut self.all {
            let stamp = Stamp::of(&file.source.path);
            let is_wanted = file.wants_all || !file.names.is_empty();
            if is_wanted && (file.read.is_none() || (stamp.is_some() && file.read != stamp)) {
                file.read = stamp.or(Some(NO_FILE));
                file.take(store, host);
            }
        }
    }

    /// What was counted of each type.
    pub(super) fn counted(&self) -> BTreeMap<ResourceType, &Counted> {
        self.all.iter().map(|file| (file.kind, &file.counted)).collect()
    }
}

impl File {
    fn take(&mut self, store: &mut Store, host: &mut dyn Host) {
        let path = self.source.path.display().to_string();
        self.counted.stats.update_attempt += 1;
        let content = match store.read_file(&self.source.path) {
            Ok(content) => content,
            Err(error) => {
                log::warn!(target: "config", "{path}: {error}");
                self.counted.stats.update_failure += 1;
                for name in &self.names {
                    store.failed(self.kind, &self.place, name);
                }
                return;
            }
        };
        let mut present = BTreeSet::new();
        let mut is_taken = true;
        let resources = content.resources.iter().filter(|(kind, incoming)| {
            *kind == self.kind && (self.wants_all || self.names.contains(&incoming.name))
        });
        let gone = |present: &BTreeSet<Arc<str>>, held: &BTreeSet<Arc<str>>| -> Vec<Arc<str>> {
            held.difference(present).cloned().collect()
        };
        let named: BTreeSet<Arc<str>> =
            content.resources.iter().map(|(_, incoming)| Arc::clone(&incoming.name)).collect();
        // A listener may take over the address of one that goes, a scope the key.
        let moves = [ResourceType::Listener, ResourceType::ScopedRouteConfiguration];
        if moves.contains(&self.kind) {
            for name in gone(&named, &self.held) {
                store.remove(self.kind, &self.place, &name);
            }
        }
        let names = named.iter().map(|name| &**name);
        store.expect(self.kind, &self.place, names);
        for (kind, incoming) in resources {
            present.insert(Arc::clone(&incoming.name));
            if let Err(reason) = store.put(*kind, &self.place, incoming, host) {
                is_taken = false;
                log::warn!(
                    target: "config", "{path}: {} {}: {reason}", kind.word(), incoming.name
                );
            }
        }
        for (name, reason) in store.judge_together(self.kind, &self.place) {
            is_taken = false;
            log::warn!(target: "config", "{path}: {} {name}: {reason}", self.kind.word());
        }
        for name in gone(&present, &self.held) {
            store.remove(self.kind, &self.place, &name);
        }
        if self.wants_all {
            self.held = present;
            store.answered(self.kind, &self.place);
        }
        if is_taken {
            self.counted.stats.update_success += 1;
            self.counted.version_text = content.version.to_string();
        } else {
            self.counted.stats.update_rejected += 1;
        }
    }
}

/// How an interest in all there is is given up.
const EVERYTHING: &str = "*";

/// Of a file that is not there; another that comes is another.
const NO_FILE: Stamp = Stamp { device: 0, inode: 0, size: 0, modified: (0, 0) };
