//! The application log: what the process itself has to say, as opposed to the access log.
//!
//! Code logs through the `log` crate. A record becomes one line in the shape of Envoy's,
//! `[2026-11-21 01:16:59.134][4711][info][main] message`, and goes to its own writer thread through
//! a bounded queue: logging never blocks a shard, and when the writer is behind, lines are lost and
//! the next line that gets through says how many.
//!
//! Levels are set per component: the log target if it is one of [`COMPONENTS`], else what the
//! module it comes from belongs to. A disabled level costs one relaxed load.

use std::cell::RefCell;
use std::fmt::{self, Display, Write as _};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_xds::snapshot::TimePart;
use outrigger_xds::snapshot::access_log::Sink as Target;
use thiserror::Error;

use crate::access_log::clock::Clock;
use crate::access_log::writer::{Batch, LogWriter, OpenError, Queue, Sink, StartError};

/// Parts of the process whose level can be set apart. Names are Envoy's where it has the part.
pub const COMPONENTS: [&str; 13] = [
    "access_log",
    "admin",
    "config",
    "connection",
    "dns",
    "http",
    "main",
    "misc",
    "services",
    "shard",
    "tcp",
    "upgrade",
    "upstream",
];

/// A level of importance, as Envoy names them.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Level {
    /// Everything.
    Trace,
    /// For debugging.
    Debug,
    /// What an operator likes to know.
    #[default]
    Info,
    /// Something is wrong, and coped with.
    Warning,
    /// Something failed.
    Error,
    /// Accepted for Envoy's sake; nothing is logged at this level.
    Critical,
    /// Nothing.
    Off,
}

impl Level {
    /// All levels, from the most talkative.
    pub const ALL: [Level; 7] = [
        Level::Trace,
        Level::Debug,
        Level::Info,
        Level::Warning,
        Level::Error,
        Level::Critical,
        Level::Off,
    ];

    /// As it is written in options and lines.
    pub fn name(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
            Level::Critical => "critical",
            Level::Off => "off",
        }
    }

    fn of(level: log::Level) -> Level {
        match level {
            log::Level::Trace => Level::Trace,
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warning,
            log::Level::Error => Level::Error,
        }
    }

    fn filter(self) -> log::LevelFilter {
        match self {
            Level::Trace => log::LevelFilter::Trace,
            Level::Debug => log::LevelFilter::Debug,
            Level::Info => log::LevelFilter::Info,
            Level::Warning => log::LevelFilter::Warn,
            Level::Error => log::LevelFilter::Error,
            Level::Critical | Level::Off => log::LevelFilter::Off,
        }
    }
}

impl Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Level, UnknownLevel> {
        match text {
            "warn" => Ok(Level::Warning),
            text => Level::ALL
                .into_iter()
                .find(|level| level.name() == text)
                .ok_or_else(|| UnknownLevel(text.to_owned())),
        }
    }
}

/// No such level.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("unknown log level {0:?}: use trace, debug, info, warning, error, critical or off")]
pub struct UnknownLevel(String);

/// A component and its level, written `component:level`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ComponentLevel {
    component: usize,
    /// The level.
    pub level: Level,
}

impl ComponentLevel {
    /// The component's name.
    pub fn component(self) -> &'static str {
        COMPONENTS[self.component]
    }

    /// From the two parts.
    pub fn new(component: &str, level: Level) -> Result<ComponentLevel, ComponentLevelError> {
        let component = COMPONENTS
            .iter()
            .position(|known| *known == component)
            .ok_or_else(|| ComponentLevelError::UnknownComponent(component.to_owned()))?;
        Ok(ComponentLevel { component, level })
    }
}

impl FromStr for ComponentLevel {
    type Err = ComponentLevelError;

    fn from_str(text: &str) -> Result<ComponentLevel, ComponentLevelError> {
        let (component, level) =
            text.split_once(':').ok_or_else(|| ComponentLevelError::NoColon(text.to_owned()))?;
        ComponentLevel::new(component, level.parse()?)
    }
}

/// What is wrong with a `component:level`.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum ComponentLevelError {
    /// There is no `:`.
    #[error("{0:?} is not of the form component:level")]
    NoColon(String),
    /// No such component.
    #[error("unknown log component {0:?}: use one of {list}", list = COMPONENTS.join(", "))]
    UnknownComponent(String),
    /// No such level.
    #[error(transparent)]
    UnknownLevel(#[from] UnknownLevel),
}

/// The shape of a line: the flags of spdlog that Envoy's `--log-format` takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern {
    text: String,
    pieces: Vec<Piece>,
}

impl Default for Pattern {
    fn default() -> Pattern {
        // Every flag of it is supported, as the tests see to.
        Pattern::DEFAULT.parse().unwrap_or(Pattern { text: String::new(), pieces: Vec::new() })
    }
}

impl Pattern {
    /// Envoy's default without the source position.
    pub const DEFAULT: &'static str = "[%Y-%m-%d %T.%e][%t][%l][%n] %v";

    fn write(&self, line: &Line<'_>, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            piece.write(line, out);
        }
        out.push(b'\n');
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Pattern, PatternError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            if at > 0 {
                pieces.push(Piece::Literal(rest[..at].into()));
            }
            let flag = rest[at + 1..].chars().next().ok_or(PatternError::LonePercent)?;
            pieces.extend(Piece::of(flag).ok_or(PatternError::UnknownFlag(flag))?);
            rest = &rest[at + 1 + flag.len_utf8()..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.into()));
        }
        Ok(Pattern { text: text.to_owned(), pieces })
    }
}

/// As it was given.
impl Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What is wrong with a log format.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum PatternError {
    /// It ends with `%`.
    #[error("log format ends with a lone %")]
    LonePercent,
    /// A flag that is not supported.
    #[error("log format flag %{0} is not supported: use {SUPPORTED_FLAGS}")]
    UnknownFlag(char),
}

/// How the process logs.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The level of every component not in `components`.
    pub level: Level,
    /// Levels of single components.
    pub components: Vec<ComponentLevel>,
    /// The shape of a line; `None`: [`Pattern::DEFAULT`], or what the configuration says.
    pub pattern: Option<Pattern>,
    /// Write line feeds and other control characters in messages as `\n` and so on.
    pub escaped: bool,
    /// Standard error, or a file.
    pub target: Target,
}

/// Why logging could not be started.
#[derive(Debug, Error)]
pub enum InitError {
    /// It runs already.
    #[error("the application log is already started")]
    AlreadyStarted,
    /// No file.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No thread.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// The running application log; whoever holds it ends it.
#[derive(Debug)]
pub struct Logging {
    writer: LogWriter,
}

impl Logging {
    /// Starts the process's log. Once per process: the `log` crate has one sink.
    pub fn start(options: Options) -> Result<Logging, InitError> {
        // This writer counts for itself: its losses are told in the log.
        let writer = LogWriter::start("log", QUEUE_LINES, Default::default(), Default::default())?;
        let queue = writer.queue();
        let sink = queue.open(&options.target)?;
        let pattern = options.pattern.unwrap_or_default();
        let output = Output { queue, sink, pattern, escaped: options.escaped };
        set_all(options.level);
        options.components.into_iter().for_each(set);
        LOGGER.output.set(output).map_err(|_| InitError::AlreadyStarted)?;
        log::set_logger(&LOGGER).map_err(|_| InitError::AlreadyStarted)?;
        Ok(Logging { writer })
    }

    /// Lines have this shape from now on. Once per process, for the configuration's.
    pub fn set_pattern(pattern: Pattern) {
        // The first stays; there is one configuration.
        let _again = LOGGER.configured.set(pattern);
    }

    /// Opens the log file again, after it was moved away.
    pub fn reopen(&self) {
        self.writer.queue().reopen();
    }

    /// A handle for [`reopen`](Queue::reopen) from elsewhere.
    pub fn queue(&self) -> Queue {
        self.writer.queue()
    }

    /// Writes what is queued, for at most `patience`.
    pub fn shutdown(self, patience: Duration) {
        log::set_max_level(log::LevelFilter::Off);
        self.writer.shutdown(patience);
    }
}

/// Every component with its present level, in order of name.
pub fn levels() -> impl Iterator<Item = (&'static str, Level)> {
    let level = |index: usize| Level::ALL[usize::from(LOGGER.levels[index].load(Relaxed)) % 7];
    COMPONENTS.into_iter().enumerate().map(move |(index, name)| (name, level(index)))
}

/// Sets one component's level.
pub fn set(ComponentLevel { component, level }: ComponentLevel) {
    LOGGER.levels[component].store(level as u8, Relaxed);
    let lowest = levels().map(|(_, level)| level).min().unwrap_or_default();
    log::set_max_level(lowest.filter());
}

/// Sets every component's level.
pub fn set_all(level: Level) {
    for component in 0..COMPONENTS.len() {
        set(ComponentLevel { component, level });
    }
}

/// The sink of the `log` crate.
struct Logger {
    levels: [AtomicU8; COMPONENTS.len()],
    output: OnceLock<Output>,
    /// In place of the output's own.
    configured: OnceLock<Pattern>,
    lost: AtomicU64,
}

static LOGGER: Logger = Logger {
    levels: [const { AtomicU8::new(Level::Info as u8) }; COMPONENTS.len()],
    output: OnceLock::new(),
    configured: OnceLock::new(),
    lost: AtomicU64::new(0),
};

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        let level = self.levels[component_of(metadata.target())].load(Relaxed);
        Level::of(metadata.level()) as u8 >= level
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let Some(output) = self.output.get() else { return };
        let component = COMPONENTS[component_of(record.target())];
        let lost = self.lost.swap(0, Relaxed);
        if lost > 0 {
            let message = format!("{lost} log lines lost: the log could not be written in time");
            let line = Line { level: Level::Warning, component: "main", message, source: None };
            self.send(output, line, lost);
        }
        let source = record.file().zip(record.line());
        let message = record.args().to_string();
        self.send(output, Line { level: Level::of(record.level()), component, message, source }, 1);
    }

    fn flush(&self) {}
}

impl Logger {
    /// Sends a line; one that is not taken counts as `weight` lost ones.
    fn send(&self, output: &Output, mut line: Line<'_>, weight: u64) {
        if output.escaped {
            line.message = line.message.escape_default().to_string();
        }
        let mut bytes = output.queue.spare().unwrap_or_default();
        self.configured.get().unwrap_or(&output.pattern).write(&line, &mut bytes);
        let batch = Batch { sink: output.sink.clone(), bytes, lines: 1, by_timer: false };
        if output.queue.send(batch).is_err() {
            self.lost.fetch_add(weight, Relaxed);
        }
    }
}

struct Output {
    queue: Queue,
    sink: Sink,
    pattern: Pattern,
    escaped: bool,
}

struct Line<'a> {
    level: Level,
    component: &'static str,
    message: String,
    source: Option<(&'a str, u32)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Component,
    EscapedMessage,
    Level,
    LevelInitial,
    Literal(Box<str>),
    Message,
    Process,
    SourceFile { whole_path: bool },
    SourceLine,
    Thread,
    Time(&'static [TimePart]),
}

impl Piece {
    /// The pieces of one flag; colour marks are none.
    fn of(flag: char) -> Option<Vec<Piece>> {
        use TimePart as T;
        let time = |part: &'static [TimePart]| Piece::Time(part);
        let colon = || Piece::Literal(":".into());
        Some(match flag {
            '^' | '$' => vec![],
            '%' => vec![Piece::Literal("%".into())],
            'n' => vec![Piece::Component],
            'j' | '_' => vec![Piece::EscapedMessage],
            'l' => vec![Piece::Level],
            'L' => vec![Piece::LevelInitial],
            'v' => vec![Piece::Message],
            'P' => vec![Piece::Process],
            't' => vec![Piece::Thread],
            'g' => vec![Piece::SourceFile { whole_path: true }],
            's' => vec![Piece::SourceFile { whole_path: false }],
            '#' => vec![Piece::SourceLine],
            '@' => vec![Piece::SourceFile { whole_path: true }, colon(), Piece::SourceLine],
            'a' => vec![time(&[T::WeekdayShort])],
            'A' => vec![time(&[T::WeekdayLong])],
            'b' => vec![time(&[T::MonthShort])],
            'B' => vec![time(&[T::MonthLong])],
            'Y' => vec![time(&[T::Year])],
            'C' => vec![time(&[T::YearOfCentury])],
            'm' => vec![time(&[T::Month])],
            'd' => vec![time(&[T::Day])],
            'H' => vec![time(&[T::Hour])],
            'I' => vec![time(&[T::Hour12])],
            'M' => vec![time(&[T::Minute])],
            'S' => vec![time(&[T::Second])],
            'p' => vec![time(&[T::AmPm])],
            'T' | 'X' => {
                vec![time(&[T::Hour]), colon(), time(&[T::Minute]), colon(), time(&[T::Second])]
            }
            'R' => vec![time(&[T::Hour]), colon(), time(&[T::Minute])],
            'e' => vec![time(&[T::Fraction(3)])],
            'f' => vec![time(&[T::Fraction(6)])],
            'F' => vec![time(&[T::Fraction(9)])],
            'E' => vec![time(&[T::EpochSeconds])],
            'z' => vec![time(&[T::ZoneOffsetColon])],
            _ => return None,
        })
    }

    fn write(&self, line: &Line<'_>, out: &mut Vec<u8>) {
        let mut text = String::new();
        let part: &str = match self {
            Piece::Component => line.component,
            Piece::Level => line.level.name(),
            Piece::LevelInitial => &line.level.name().to_ascii_uppercase()[..1],
            Piece::Literal(literal) => literal,
            Piece::Message => &line.message,
            Piece::SourceFile { whole_path } => {
                let path = line.source.map_or("", |(path, _)| path);
                if *whole_path { path } else { path.rsplit('/').next().unwrap_or(path) }
            }
            Piece::Time(parts) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
                return CLOCK.with_borrow_mut(|clock| clock.write(now, true, parts, out));
            }
            Piece::EscapedMessage => {
                text.extend(line.message.escape_default());
                &text
            }
            Piece::Process => {
                let _ = write!(text, "{}", std::process::id());
                &text
            }
            Piece::SourceLine => {
                let _ = write!(text, "{}", line.source.map_or(0, |(_, number)| number));
                &text
            }
            Piece::Thread => {
                let _ = write!(text, "{}", THREAD_ID.with(|id| *id));
                &text
            }
        };
        out.extend_from_slice(part.as_bytes());
    }
}

thread_local! {
    static CLOCK: RefCell<Clock> = RefCell::new(Clock::new());
    static THREAD_ID: libc::pid_t = thread_id();
}

fn thread_id() -> libc::pid_t {
    // SAFETY: gettid takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// The component of a log target: itself if it is a component's name, else by module path.
fn component_of(target: &str) -> usize {
    let mut path = target.split("::");
    let name = match (path.next(), path.next(), path.next()) {
        (Some(name), None, None) if COMPONENTS.contains(&name) => name,
        (Some("outrigger_engine"), Some("access_log"), _) => "access_log",
        (Some("outrigger_engine"), Some("control"), Some("admin")) => "admin",
        (Some("outrigger_engine"), Some("control"), Some("dns")) => "dns",
        (Some("outrigger_engine"), Some("control"), Some("services")) => "services",
        (Some("outrigger_engine"), Some("cluster"), _) => "upstream",
        (Some("outrigger_engine"), Some("connection" | "listen"), _) => "connection",
        (Some("outrigger_engine"), Some("http"), _) => "http",
        (Some("outrigger_engine"), Some("tcp"), _) => "tcp",
        (Some("outrigger_engine"), Some("buffers" | "ring" | "shard" | "timer"), _) => "shard",
        (Some("outrigger_engine" | "outrigger"), ..) => "main",
        (Some("outrigger_upgrade"), ..) => "upgrade",
        (Some("outrigger_xds"), ..) => "config",
        _ => "misc",
    };
    // Every name above is a component, as a test proves.
    COMPONENTS.iter().position(|known| *known == name).unwrap_or_default()
}

/// Lines that may wait for the writer (here a batch is a line): enough for a burst at start.
const QUEUE_LINES: usize = 256;

const SUPPORTED_FLAGS: &str = "%Y %C %m %d %H %I %M %S %T %R %p %e %f %F %E %z %a %A %b %B %t %P %l %L %n %g %s %# %@ %v %j %_ %%";

#[cfg(test)]
mod tests {
    use super::*;

    fn render(pattern: &str, message: &str) -> String {
        let line = Line {
            level: Level::Warning,
            component: "dns",
            message: message.to_owned(),
            source: Some(("engine/src/control/dns.rs", 42)),
        };
        let mut out = Vec::new();
        pattern.parse::<Pattern>().unwrap().write(&line, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn levels_have_envoys_names() {
        for level in Level::ALL {
            assert_eq!(level.name().parse(), Ok(level));
        }
        assert_eq!("warn".parse(), Ok(Level::Warning));
        assert_eq!("loud".parse::<Level>(), Err(UnknownLevel("loud".to_owned())));
        assert!(Level::Trace < Level::Off);
    }

    #[test]
    fn component_levels_are_parsed_or_refused_by_name() {
        let parsed: ComponentLevel = "upstream:debug".parse().unwrap();
        assert_eq!((parsed.component(), parsed.level), ("upstream", Level::Debug));
        let refused = |text: &str| text.parse::<ComponentLevel>().unwrap_err();
        assert_eq!(refused("upstream"), ComponentLevelError::NoColon("upstream".to_owned()));
        assert_eq!(refused("x:info"), ComponentLevelError::UnknownComponent("x".to_owned()));
        assert!(matches!(refused("dns:x"), ComponentLevelError::UnknownLevel(_)));
    }

    #[test]
    fn the_default_pattern_is_envoys_without_source() {
        let line = render(Pattern::DEFAULT, "hello");
        let expected = regex::Regex::new(
            r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\]\[\d+\]\[warning\]\[dns\] hello\n$",
        );
        assert!(expected.unwrap().is_match(&line), "{line}");
    }

    #[test]
    fn flags_are_written() {
        assert_eq!(
            render("%% %L %n %s:%# %g %@ %^%v%$ %_", "a\tb"),
            "% W dns dns.rs:42 engine/src/control/dns.rs engine/src/control/dns.rs:42 a\tb a\\tb\n"
        );
        assert_eq!(render("%P", ""), format!("{}\n", std::process::id()));
    }

    #[test]
    fn unknown_flags_are_refused() {
        assert_eq!("%Q".parse::<Pattern>(), Err(PatternError::UnknownFlag('Q')));
        assert_eq!("x%".parse::<Pattern>(), Err(PatternError::LonePercent));
        for flag in SUPPORTED_FLAGS.split(' ') {
            assert!(flag.parse::<Pattern>().is_ok(), "{flag}");
        }
    }

    #[test]
    fn targets_belong_to_components() {
        let name = |target: &str| COMPONENTS[component_of(target)];
        assert!(COMPONENTS.is_sorted());
        for component in COMPONENTS {
            assert_eq!(name(component), component);
        }
        for (target, component) in [
            ("outrigger_engine::access_log::writer", "access_log"),
            ("outrigger_engine::control::admin::stats", "admin"),
            ("outrigger_engine::control::dns", "dns"),
            ("outrigger_engine::control::services::state", "services"),
            ("outrigger_engine::control", "main"),
            ("outrigger_engine::cluster::pool", "upstream"),
            ("outrigger_engine::listen", "connection"),
            ("outrigger_engine::http", "http"),
            ("outrigger_engine::tcp", "tcp"),
            ("outrigger_engine::ring", "shard"),
            ("outrigger_upgrade::fds", "upgrade"),
            ("outrigger_xds::snapshot", "config"),
            ("outrigger", "main"),
            ("hyper::proto", "misc"),
            ("", "misc"),
        ] {
            assert_eq!(name(target), component, "{target}");
        }
    }

    /// The log is one per process, so everything that needs it started is this one test.
    #[test]
    fn lines_reach_the_file_by_component_level() {
        let directory = std::env::temp_dir().join(format!("outrigger-log-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("app.log");
        // Components that no other test logs to: all of them share this process.
        let logging = Logging::start(Options {
            level: Level::Off,
            components: vec!["tcp:warning".parse().unwrap(), "upgrade:debug".parse().unwrap()],
            pattern: Some("%l %n %v".parse().unwrap()),
            escaped: true,
            target: Target::File(path.clone().into()),
        })
        .unwrap();
        log::info!(target: "tcp", "hidden");
        log::warn!(target: "tcp", "seen");
        log::debug!(target: "upgrade", "two\nlines");
        log::trace!(target: "upgrade", "hidden");
        set_all(Level::Off);
        assert_eq!(log::max_level(), log::LevelFilter::Off);
        log::error!(target: "tcp", "hidden");
        set("tcp:error".parse().unwrap());
        assert!(levels().any(|pair| pair == ("tcp", Level::Error)));
        log::error!(target: "tcp", "seen");
        // As a configuration says it.
        Logging::set_pattern(r#"{"level":"%l","text":"%j"}"#.parse().unwrap());
        log::error!(target: "tcp", "again");
        logging.shutdown(Duration::from_secs(10));
        let written = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            written,
            "warning tcp seen\ndebug upgrade two\\nlines\nerror tcp seen\n\
             {\"level\":\"error\",\"text\":\"again\"}\n"
        );
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
