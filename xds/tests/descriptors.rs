//! The committed descriptor set is what the .proto files of the envoy-types crate and our own compile
//! to.
//!
//! The set is committed so that a build needs neither a protobuf compiler nor the place where cargo put
//! a dependency's sources. `OUTRIGGER_DESCRIPTORS_WRITE=1` writes it anew.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use prost_types::FileDescriptorSet;

#[test]
fn the_committed_descriptors_are_those_of_the_protos() {
    let fresh = compile().encode_to_vec();
    let path = crate_directory().join("descriptors/envoy.bin");
    if std::env::var_os("OUTRIGGER_DESCRIPTORS_WRITE").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let committed = std::fs::read(&path).unwrap();
    assert!(
        committed == fresh,
        "descriptors/envoy.bin ({} bytes) is not what the protos give ({} bytes); see roots.txt",
        committed.len(),
        fresh.len(),
    );
}

fn compile() -> FileDescriptorSet {
    let roots = std::fs::read_to_string(crate_directory().join("descriptors/roots.txt")).unwrap();
    let roots = roots.lines().filter(|line| !line.starts_with('#'));
    let protos = envoy_types_directory().join("proto");
    let includes = [
        crate_directory().join("proto"),
        crate_directory().join("descriptors/proto"),
        protos.join("data-plane-api"),
        protos.join("xds"),
        protos.join("googleapis"),
        protos.join("protoc-gen-validate"),
    ];
    let mut set = protox::compile(roots, includes).unwrap();
    set.file.retain(|file| !is_annotation(file.name()));
    for file in &mut set.file {
        strip(file);
    }
    set
}

/// Files that only define options for other files; we check constraints in code.
fn is_annotation(name: &str) -> bool {
    name == "google/protobuf/descriptor.proto"
        || name.starts_with("validate/")
        || name.contains("/annotations/")
}

/// Leaves away what a reader of configuration does not need: comments and options.
fn strip(file: &mut prost_types::FileDescriptorProto) {
    assert!(file.public_dependency.is_empty() && file.weak_dependency.is_empty());
    file.source_code_info = None;
    file.options = None;
    file.extension.clear();
    file.service.clear();
    file.dependency.retain(|name| !is_annotation(name));
    file.enum_type.iter_mut().for_each(strip_enum);
    file.message_type.iter_mut().for_each(strip_message);
}

fn strip_message(message: &mut prost_types::DescriptorProto) {
    let map_entry = message.options.as_ref().and_then(|options| options.map_entry);
    message.options = map_entry.map(|_| prost_types::MessageOptions {
        map_entry,
        ..prost_types::MessageOptions::default()
    });
    for field in &mut message.field {
        let packed = field.options.as_ref().and_then(|options| options.packed);
        field.options = packed
            .map(|_| prost_types::FieldOptions { packed, ..prost_types::FieldOptions::default() });
    }
    for oneof in &mut message.oneof_decl {
        oneof.options = None;
    }
    message.enum_type.iter_mut().for_each(strip_enum);
    message.nested_type.iter_mut().for_each(strip_message);
}

fn strip_enum(definition: &mut prost_types::EnumDescriptorProto) {
    let allow_alias = definition.options.as_ref().and_then(|options| options.allow_alias);
    definition.options = allow_alias
        .map(|_| prost_types::EnumOptions { allow_alias, ..prost_types::EnumOptions::default() });
    for value in &mut definition.value {
        value.options = None;
    }
}

fn crate_directory() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo keeps the sources of the locked envoy-types.
fn envoy_types_directory() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(crate_directory())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let manifest = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .expect("envoy-types is in the lock file");
    Path::new(manifest).parent().unwrap().to_owned()
}
