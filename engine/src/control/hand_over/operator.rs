//! An operator's tool: one question over the control socket of the process that serves, and its answer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use outrigger_upgrade::message::{Abort, Ask, Message, Progress, Status, Wish};
use outrigger_upgrade::{Rendezvous, RendezvousError};
use tokio::runtime::Builder;

use super::line::{Happening, Line};
use super::view::{flat, to_json};

/// What is wanted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Operation {
    /// See who serves.
    Status {
        /// For programs.
        json: bool,
    },
    /// Have a successor started.
    Upgrade {
        /// Its binary, if it is not the running process's own.
        binary: Option<PathBuf>,
    },
    /// End the hand-over that is under way.
    Abort,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The configuration does not say where it is.
    #[error("engine.upgrade.socket is not set in this configuration")]
    NotConfigured,
    /// There is no way to the process.
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
    /// Nobody listens there.
    #[error("{0}: no process serves there")]
    Nobody(PathBuf),
    /// The process does not want to, or can't.
    #[error("process {pid}: {reason}")]
    Refused {
        /// Which; 0 when it can't be seen from here.
        pid: i32,
        /// Why.
        reason: String,
    },
    /// The process does not answer.
    #[error("process {0} does not answer")]
    Silent(i32),
    /// The system.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Has it done, and says what there is to be shown. Blocks.
///
/// # Errors
/// See [`OperatorError`].
pub fn operate(path: &Path, operation: &Operation) -> Result<String, OperatorError> {
    let Some((channel, peer)) = Rendezvous::call(path)? else {
        return Err(OperatorError::Nobody(path.to_owned()));
    };
    let (ask, patience) = match operation {
        Operation::Status { .. } => (Ask { wish: Wish::Status.into(), ..Ask::default() }, AT_ONCE),
        Operation::Abort => (Ask { wish: Wish::Abort.into(), ..Ask::default() }, AT_ONCE),
        Operation::Upgrade { binary } => {
            let binary = binary.as_deref().map(std::path::absolute).transpose()?;
            let binary = binary.map(|binary| binary.to_string_lossy().into_owned());
            let ask = Ask { wish: Wish::Upgrade.into(), binary: binary.unwrap_or_default() };
            (ask, UPGRADE_PATIENCE)
        }
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let answered = runtime.block_on(async {
        let mut line = Line::new(channel)?;
        line.send(Message::Ask(ask), Vec::new());
        loop {
            let happening = line.next(Some(patience)).await;
            if !matches!(happening, Happening::Sent) {
                return Ok::<_, std::io::Error>(happening);
            }
        }
    })?;
    let refused = |reason| OperatorError::Refused { pid: peer.pid, reason };
    match answered {
        Happening::Message(Message::Answer(answer), _) if !answer.is_done => {
            Err(refused(answer.text))
        }
        Happening::Message(Message::Answer(answer), _) => Ok(match (operation, answer.status) {
            (Operation::Status { json: true }, Some(status)) => to_json(&status).to_string(),
            (_, Some(status)) => table(&status),
            (_, None) => answer.text,
        }),
        // A process that knows no such question.
        Happening::Message(Message::Abort(Abort { reason }), _) => Err(refused(reason)),
        Happening::Message(..) | Happening::Violation(_) => {
            Err(refused("its answer is none".to_owned()))
        }
        Happening::End | Happening::Sent => Err(refused("it has ended".to_owned())),
        Happening::Silence => Err(OperatorError::Silent(peer.pid)),
    }
}

/// For people.
fn table(status: &Status) -> String {
    let mut rows = vec![
        ["", "PID", "GENERATION", "BUILD", "STATE", "CONNECTIONS", "MOVED", "DECLINED", "TIME"]
            .map(str::to_owned),
    ];
    let up = format!("up {} s", status.uptime_seconds);
    rows.push([
        "serves".to_owned(),
        status.pid.to_string(),
        status.generation.to_string(),
        status.build.clone(),
        status.state.clone(),
        status.connections.to_string(),
        String::new(),
        String::new(),
        up,
    ]);
    if status.successor_pid != 0 {
        let mut row = [const { String::new() }; COLUMNS];
        row[0] = "successor".to_owned();
        row[1] = status.successor_pid.to_string();
        row[4] = "getting ready".to_owned();
        rows.push(row);
    }
    let predecessors = status.predecessor.as_ref().map(flat).unwrap_or_default();
    rows.extend(predecessors.into_iter().map(|one: &Progress| {
        [
            "predecessor".to_owned(),
            one.pid.to_string(),
            one.generation.to_string(),
            one.build.clone(),
            one.phase.clone(),
            one.left.to_string(),
            one.moved.to_string(),
            one.declined.to_string(),
            format!("{} s left", one.seconds_left),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(widths);
        let cells: Vec<_> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

const COLUMNS: usize = 9;

/// A process that serves answers at once.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A successor may take its time to start and to get ready.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_one_line_for_each_process() {
        let oldest = Progress { pid: 1, phase: "draining".into(), left: 7, ..Progress::default() };
        let older = Progress { pid: 22, moved: 100, older: vec![oldest], ..Progress::default() };
        let status = Status {
            pid: 333,
            generation: 2,
            build: "0.1.0".into(),
            successor_pid: 4444,
            predecessor: Some(older),
            ..Status::default()
        };
        let table = table(&status);
        let first: Vec<_> = table.lines().map(|line| line.split_whitespace().next()).collect();
        let roles = ["PID", "serves", "successor", "predecessor", "predecessor"];
        assert_eq!(first, roles.map(Some));
        let json = to_json(&status);
        assert_eq!(json["predecessors"][1]["left"], 7);
        assert_eq!(json["successor_pid"], 4444);
    }
}
