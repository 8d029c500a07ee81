//! Programs that do what they are told: real clients and servers of RPC frameworks, which have no
//! command line of their own.
//!
//! A command is one line into standard input and is answered with one line of JSON on standard
//! output, `{"value": ...}` or `{"error": ...}`; commands are carried out one after the other.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{ChildStdin, Command};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{Limits, Process, Scratch};

/// A running peer.
#[derive(Debug)]
pub struct Peer {
    name: String,
    process: Process,
    input: ChildStdin,
    /// How much of its output has been read, in bytes: whole lines.
    read: usize,
    _directory: Scratch,
}

impl Peer {
    /// Starts one, in a directory of its own.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn start(mut command: Command) -> Peer {
        let directory = Scratch::new();
        command.current_dir(directory.path());
        let name = command.get_program().to_string_lossy().into_owned();
        match Process::spawn_reader(command, Limits::default()) {
            Ok((process, input)) => Peer { name, process, input, read: 0, _directory: directory },
            Err(error) => panic!("{name}: {error}"),
        }
    }

    /// What it answers to a command.
    ///
    /// # Panics
    /// If it ends, or gives no answer in time.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> Value {
        self.input.write_all(format!("{command}\n").as_bytes()).unwrap();
        let start = Instant::now();
        loop {
            let output = self.process.stdout_from(self.read);
            if let Some((line, _)) = output.split_once('\n') {
                self.read += line.len() + 1;
                return match serde_json::from_str(line) {
                    Ok(answer) => answer,
                    Err(error) => panic!("{}: {command}: {error}: {line}", self.name),
                };
            }
            let ended = self.process.ended();
            assert!(ended.is_none(), "{}: {command}: {ended:?}", self.name);
            assert!(start.elapsed() < PEER_PATIENCE, "{}: no answer to {command}", self.name);
            std::thread::sleep(GLANCE);
        }
    }

    /// The value of a command that succeeds.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn value(&mut self, command: &str) -> Value {
        let mut answer = self.ask(command);
        assert!(answer.get("error").is_none(), "{}: {command}: {answer}", self.name);
        answer["value"].take()
    }

    /// The port that a command made it listen on.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn serve(&mut self, command: &str) -> u16 {
        let port = self.value(command);
        port.as_u64().and_then(|port| u16::try_from(port).ok()).unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let words = self.process.stderr();
            let from = words.ceil_char_boundary(words.len().saturating_sub(WORDS_MAX));
            eprintln!("--- {} said at last:\n{}---", self.name, &words[from..]);
        }
    }
}

/// Questions to peers, of which every wrong answer is told, not the first alone.
#[derive(Debug, Default)]
pub struct Questions {
    wrong: String,
}

impl Questions {
    /// The answer must be this value.
    #[track_caller]
    pub fn value(&mut self, peer: &mut Peer, command: &str, expected: impl Into<Value>) {
        let (answer, expected) = (peer.ask(command), expected.into());
        if answer.get("value") != Some(&expected) {
            self.wrong(command, &expected.to_string(), &answer);
        }
    }

    /// The answer must be an error with these words in it, in whatever part.
    #[track_caller]
    pub fn error(&mut self, peer: &mut Peer, command: &str, words: &[&str]) {
        let answer = peer.ask(command);
        let text = answer.to_string();
        if answer.get("error").is_none() || !words.iter().all(|word| text.contains(word)) {
            self.wrong(command, &format!("an error with {words:?}"), &answer);
        }
    }

    /// All answers were right.
    ///
    /// # Panics
    /// If some were not.
    #[track_caller]
    pub fn all_right(self) {
        assert!(self.wrong.is_empty(), "\n{}", self.wrong);
    }

    fn wrong(&mut self, command: &str, expected: &str, answer: &Value) {
        let _ = writeln!(self.wrong, "{command}\n  must be {expected}\n  but is  {answer}");
    }
}

/// The longest that an answer may take: Java starts slowly on a busy machine.
const PEER_PATIENCE: Duration = Duration::from_secs(90);

/// Pause between two looks at its output.
const GLANCE: Duration = Duration::from_millis(2);

/// How much of its last words is shown, in bytes.
const WORDS_MAX: usize = 20_000;
