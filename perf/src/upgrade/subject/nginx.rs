//! nginx: a master that starts another one, which inherits its listeners.
//!
//! A master takes SIGUSR2 only if it is an orphan: its daemon's way to know that it is not itself a new one.
//! So a shell starts it and ends, and the process group holds all together; a second child of the shell ends it
//! should the harness die.

use std::{fs, path::PathBuf};

use super::{Setup, Subject, lives, signal, wait_until_serving};
use crate::{
    sys,
    target::{
        Missing, Target,
        config::Launch,
        server::{Scratch, Server},
    },
    upgrade::{UpgradeError, config, io_error, report::Tongue},
};

pub(super) struct Nginx {
    setup: Setup,
    group: Server,
    /// Master and workers of before the last upgrade, as long as they are there.
    old: Vec<u32>,
    /// The master that is to end when another serves.
    outgoing: Option<u32>,
}

const SCRIPT: &str = r#"harness=$1 pid=$2; shift 2
"$@" &
looks=0
until [ -s "$pid" ] || [ $looks -gt 1000 ]; do looks=$((looks + 1)); sleep 0.01; done
(while kill -0 "$harness" 2>/dev/null; do sleep 1; done; kill -TERM 0) &
exit 0"#;

/// Where a master writes its number, which the shell waits for: a master knows its parent then.
const PID: &str = "nginx.pid";

/// Where Debian has modules.
const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

impl Nginx {
    pub(super) fn start(setup: Setup) -> Result<Self, UpgradeError> {
        if setup.sides.contains_key(&Tongue::Tcp) && !PathBuf::from(STREAM).is_file() {
            let remedy = "apt-get install libnginx-mod-stream, for tcp";
            return Err(Missing::Peer { target: Target::Nginx, remedy }.into());
        }
        let directory = setup.scratch.path();
        let path = directory.join("nginx.conf");
        let log = directory.join("error.log");
        let mut arguments = vec!["-c".into(), SCRIPT.into(), "sh".into()];
        arguments.push(std::process::id().to_string().into());
        arguments.push(directory.join(PID).into());
        arguments.push(setup.program.clone().into());
        for (name, value) in [("-p", directory), ("-e", &log), ("-c", &path)] {
            arguments.extend([name.into(), value.into()]);
        }
        let launch = Launch { arguments, files: vec![(path, config::nginx(&setup, STREAM))] };
        let own = Scratch::new().map_err(io_error("making a temporary directory"))?;
        let group = Server::spawn("nginx", "/bin/sh".as_ref(), &launch, own, None)?;
        let mut nginx = Self { setup, group, old: Vec::new(), outgoing: None };
        wait_until_serving(Target::Nginx, &mut nginx)?;
        Ok(nginx)
    }

    fn master(&self) -> Option<u32> {
        let text = fs::read_to_string(self.setup.scratch.path().join(PID)).ok()?;
        text.trim().parse().ok().filter(|pid| lives(*pid))
    }
}

impl Subject for Nginx {
    fn begin(&mut self) -> Result<(), UpgradeError> {
        self.outgoing = self.master();
        if let Some(master) = self.outgoing {
            self.old.extend(sys::process_tree(master).unwrap_or_default());
            signal(master, libc::SIGUSR2);
        }
        Ok(())
    }

    fn serves(&mut self) -> Result<bool, UpgradeError> {
        let Some(master) = self.master().filter(|master| Some(*master) != self.outgoing) else {
            return Ok(false);
        };
        let has_workers = sys::process_tree(master).is_ok_and(|tree| tree.len() > 1);
        if has_workers && let Some(outgoing) = self.outgoing.take() {
            signal(outgoing, libc::SIGWINCH);
            signal(outgoing, libc::SIGQUIT);
        }
        Ok(has_workers)
    }

    fn left(&mut self) -> usize {
        self.old.retain(|pid| lives(*pid));
        self.old.len()
    }

    fn pids(&self) -> Vec<u32> {
        let mut pids = self.old.clone();
        if let Some(master) = self.master() {
            pids.extend(sys::process_tree(master).unwrap_or_default());
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    fn words(&self) -> String {
        let log = fs::read_to_string(self.setup.scratch.path().join("error.log"));
        self.group.said("stderr") + &log.unwrap_or_default()
    }
}
