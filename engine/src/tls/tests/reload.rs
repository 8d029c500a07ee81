//! Contexts that follow their files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outrigger_xds::bootstrap::{LoadOptions, Source, load};
use outrigger_xds::snapshot::{DownstreamTls, Snapshot};
use outrigger_xds::source::Format;

use super::support::*;
use crate::tls::{Refreshed, Secrets, TlsContexts};

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let name = format!("outrigger-tls-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// As tools do it: written beside, and renamed over the old one.
    fn write(&self, name: &str, text: &str) {
        let new = self.0.join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.0.join(name)).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const NOTHING: Refreshed = Refreshed { replaced: 0, failed: 0 };
const REPLACED: Refreshed = Refreshed { replaced: 1, failed: 0 };
const FAILED: Refreshed = Refreshed { replaced: 0, failed: 1 };

/// A configuration whose listener has this TLS context.
fn configure(context: &str) -> (Snapshot, Arc<DownstreamTls>) {
    let text = format!(
        "
static_resources:
  listeners:
  - name: l
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: t
          cluster: c
      transport_socket:
        name: tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context: {context}
  clusters:
  - name: c
    load_assignment: {{ cluster_name: c }}
"
    );
    let source = Source::text("test", text, Format::Yaml);
    let loaded = load(&source, &LoadOptions::default()).unwrap();
    let chain = loaded.snapshot.listeners[0].filter_chains.iter().next().unwrap();
    let tls = Arc::clone(chain.tls.as_ref().unwrap());
    (loaded.snapshot, tls)
}

fn of_files(directory: &Directory, chain: &str, key: &str) -> String {
    format!(
        "{{ tls_certificates: [ {{ certificate_chain: {{ filename: '{}' }}, \
         private_key: {{ filename: '{}' }} }} ] }}",
        directory.path(chain),
        directory.path(key)
    )
}

/// The certificate that a client is shown now.
fn shown(contexts: &TlsContexts, tls: &Arc<DownstreamTls>, authority: &Authority) -> Vec<u8> {
    let shard = Shard::new();
    let context = contexts.server(tls).unwrap().load().unwrap();
    let (handshake, peer) = shard.server(&context);
    let peer = spawn_client(peer, rustls_client(authority, &[], None), "a.test", |peer| {
        ping(peer);
        peer.conn.peer_certificates().unwrap()[0].to_vec()
    });
    let established = shard.finish(handshake).unwrap();
    shard.pong(&established.transport);
    shard.join(peer)
}

#[test]
fn a_pair_is_replaced_when_both_files_are_there() {
    let authority = Authority::new("ca");
    let (old, new) = (authority.issue(&["a.test"]), authority.issue(&["a.test"]));
    let files = Directory::new("pair");
    files.write("chain", &old.chain);
    files.write("key", &old.key);
    let (snapshot, tls) = configure(&of_files(&files, "chain", "key"));
    let contexts = TlsContexts::build(&snapshot).unwrap();
    assert!(contexts.has_files());
    assert_eq!(contexts.refresh(), NOTHING);
    assert_eq!(shown(&contexts, &tls, &authority), *old.leaf);
    // One half is no news yet, and an error only if the other does not come.
    files.write("chain", &new.chain);
    assert_eq!(contexts.refresh(), NOTHING);
    assert_eq!(contexts.refresh(), FAILED);
    assert_eq!(contexts.refresh(), NOTHING, "told once");
    assert_eq!(shown(&contexts, &tls, &authority), *old.leaf);
    files.write("key", &new.key);
    assert_eq!(contexts.refresh(), REPLACED);
    assert_eq!(shown(&contexts, &tls, &authority), *new.leaf);
    // Both between two looks.
    files.write("chain", &old.chain);
    files.write("key", &old.key);
    assert_eq!(contexts.refresh(), REPLACED);
    // Broken, gone, and there again.
    files.write("chain", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
    assert_eq!(contexts.refresh(), FAILED);
    fs::remove_file(files.path("chain")).unwrap();
    assert_eq!(contexts.refresh(), FAILED);
    assert_eq!(shown(&contexts, &tls, &authority), *old.leaf);
    files.write("chain", &old.chain);
    assert_eq!(contexts.refresh(), REPLACED);
    assert_eq!(contexts.refresh(), NOTHING);
}

#[test]
fn links_are_followed_as_kubernetes_turns_them() {
    let authority = Authority::new("ca");
    let (old, new) = (authority.issue(&["a.test"]), authority.issue(&["a.test"]));
    let files = Directory::new("links");
    for (version, issued) in [("v1", &old), ("v2", &new)] {
        fs::create_dir(files.path(version)).unwrap();
        files.write(&format!("{version}/chain"), &issued.chain);
        files.write(&format!("{version}/key"), &issued.key);
    }
    symlink("v1", files.path("..data")).unwrap();
    for name in ["chain", "key"] {
        symlink(Path::new("..data").join(name), files.path(name)).unwrap();
    }
    let (snapshot, tls) = configure(&of_files(&files, "chain", "key"));
    let contexts = TlsContexts::build(&snapshot).unwrap();
    symlink("v2", files.path("..data_tmp")).unwrap();
    fs::rename(files.path("..data_tmp"), files.path("..data")).unwrap();
    assert_eq!(contexts.refresh(), REPLACED);
    assert_eq!(shown(&contexts, &tls, &authority), *new.leaf);
}

#[test]
fn files_of_secrets_are_read_again() {
    let authority = Authority::new("ca");
    let (old, new) = (authority.issue(&["a.test"]), authority.issue(&["a.test"]));
    let files = Directory::new("secrets");
    let secret = |issued: &Issued| {
        let text = |pem: &str| pem.replace("\r\n", "\n").replace('\n', "\\n");
        format!(
            "resources:\n- '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  \
             name: pair\n  tls_certificate:\n    certificate_chain: {{ inline_string: \"{}\" }}\n    \
             private_key: {{ inline_string: \"{}\" }}\n",
            text(&issued.chain),
            text(&issued.key)
        )
    };
    files.write("sds.yaml", &secret(&old));
    let (snapshot, tls) = configure(&format!(
        "{{ tls_certificate_sds_secret_configs: [ {{ name: pair, sds_config: {{ \
         path_config_source: {{ path: '{}' }} }} }} ] }}",
        files.path("sds.yaml")
    ));
    let contexts = TlsContexts::build(&snapshot).unwrap();
    assert_eq!(shown(&contexts, &tls, &authority), *old.leaf);
    assert_eq!(contexts.refresh(), NOTHING);
    files.write("sds.yaml", &secret(&new));
    assert_eq!(contexts.refresh(), REPLACED);
    assert_eq!(shown(&contexts, &tls, &authority), *new.leaf);
    files.write("sds.yaml", "resources: []");
    assert_eq!(contexts.refresh(), FAILED);
    assert_eq!(shown(&contexts, &tls, &authority), *new.leaf);
}

#[test]
fn contexts_go_on_in_the_next_snapshot() {
    let authority = Authority::new("ca");
    let issued = authority.issue(&["a.test"]);
    let files = Directory::new("next");
    files.write("chain", &issued.chain);
    files.write("key", &issued.key);
    let (snapshot, tls) = configure(&of_files(&files, "chain", "key"));
    let contexts = TlsContexts::build(&snapshot).unwrap();
    let mut next = contexts.clone();
    next.add_listener(&snapshot.listeners[0], &Secrets::new()).unwrap();
    assert!(Arc::ptr_eq(&contexts.server(&tls).unwrap(), &next.server(&tls).unwrap()));
    let (other, other_tls) = configure(&of_files(&files, "chain", "key"));
    next.add_listener(&other.listeners[0], &Secrets::new()).unwrap();
    drop(snapshot);
    drop(contexts);
    next.retain_used();
    assert!(next.server(&tls).is_some() && next.server(&other_tls).is_some());
    let place = Arc::downgrade(&tls);
    drop(tls);
    next.retain_used();
    assert!(place.upgrade().is_none(), "nobody has it any more");
}

#[test]
fn what_is_wrong_is_named() {
    let authority = Authority::new("ca");
    let (one, other) = (authority.issue(&["a.test"]), authority.issue(&["a.test"]));
    let files = Directory::new("wrong");
    files.write("chain", &one.chain);
    files.write("key", &other.key);
    files.write("empty", "");
    for (chain, key, wanted) in [
        ("chain", "key", "the private key does not belong to the certificate"),
        ("empty", "key", "certificate_chain: holds no certificate"),
        ("key", "key", "certificate_chain: holds no certificate"),
        ("chain", "empty", "private_key: holds no private key"),
        ("missing", "key", "missing: No such file"),
    ] {
        let (snapshot, _) = configure(&of_files(&files, chain, key));
        let message = TlsContexts::build(&snapshot).err().unwrap().to_string();
        assert!(message.contains(wanted) && message.contains("tls_certificates[0]"), "{message}");
    }
}
