//! The `engine:` section of the configuration file: what only Outrigger has.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::services_config::ServicesConfig;

/// Settings of the shard engine. Every field may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// Shards to run; 0 is one per allowed CPU (or one per entry of `cores`). `--concurrency` wins.
    pub shards: u32,
    /// CPUs to pin shards to, one each; empty takes the allowed ones in order.
    pub cores: Vec<u32>,
    /// Microseconds a shard polls for work before it blocks. Costs a core, saves a wake-up.
    pub spin_us: u32,
    /// Microseconds a shard blocks in its socket ring before it parks the whole executor.
    pub linger_us: u32,
    /// Size of one receive buffer: a power of two from 4096 to 65536.
    pub buffer_bytes: u32,
    /// Receive buffers each shard publishes to the kernel at start.
    pub buffers: u32,
    /// Receive buffers a shard may grow to; above it receiving waits.
    pub buffers_max: u32,
    /// Submission entries of a shard's ring: a power of two from 64 to 32768.
    pub ring_entries: u32,
    /// Downstream connections of the process; above it new ones are closed, counted.
    pub connections_max: u32,
    /// Access log bytes that may wait for a slow disk, of all logs; above it records are dropped, counted.
    pub access_log_queue_bytes: u32,
    /// A shard that makes no turn for this many milliseconds is counted as stalled, and woken.
    pub stall_ms: u32,
    /// Services that are published and subscribed at run time.
    pub services: ServicesConfig,
    /// Where the last good configuration of management servers is kept; `None` nowhere.
    pub config_cache: Option<ConfigCache>,
    /// Where a successor finds this process, to take over from it; `None` nowhere.
    pub upgrade: Option<Upgrade>,
}

/// How a process hands over to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upgrade {
    /// A socket's path, in a directory that only this user can write. A process that starts with the path
    /// of one that runs takes over from it.
    pub socket: PathBuf,
    /// Most processes at once, with those that still drain; one more is refused, and everybody serves on.
    #[serde(default = "processes_max")]
    pub max_processes: u32,
}

/// A file with what management servers have sent, without secrets: a start while none answers goes on
/// with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigCache {
    /// The file.
    pub path: PathBuf,
    /// Milliseconds that servers which take a connection have for all that a start needs, before it
    /// goes on with the file. Servers that can't be reached have none.
    #[serde(default = "cache_wait_ms")]
    pub wait_ms: u32,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            shards: 0,
            cores: Vec::new(),
            spin_us: SPIN_US,
            linger_us: LINGER_US,
            buffer_bytes: BUFFER_BYTES,
            buffers: BUFFERS,
            buffers_max: BUFFERS_MAX,
            ring_entries: RING_ENTRIES,
            connections_max: CONNECTIONS_MAX,
            access_log_queue_bytes: ACCESS_LOG_QUEUE_BYTES,
            stall_ms: STALL_MS,
            services: ServicesConfig::default(),
            config_cache: None,
            upgrade: None,
        }
    }
}

/// A setting out of its range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("engine.{field}: {value} is not {expected}")]
pub struct EngineConfigError {
    /// Path of the field from `engine` on, with an index where there is a list.
    pub field: String,
    /// The value found.
    pub value: String,
    /// What would do.
    pub expected: &'static str,
}

impl EngineConfig {
    /// Checks ranges and what fields say of each other.
    ///
    /// # Errors
    /// Names the first field that is out of range.
    pub fn validate(&self) -> Result<(), EngineConfigError> {
        let check = |field: &str, value: u32, fits: bool, expected: &'static str| {
            if fits {
                Ok(())
            } else {
                let (field, value) = (field.to_owned(), value.to_string());
                Err(EngineConfigError { field, value, expected })
            }
        };
        check("shards", self.shards, self.shards <= SHARDS_MAX, "at most 1024")?;
        check(
            "shards",
            self.shards,
            self.cores.is_empty() || self.shards == 0 || self.shards as usize == self.cores.len(),
            "the number of entries of engine.cores",
        )?;
        for (index, core) in self.cores.iter().enumerate() {
            let field = format!("cores[{index}]");
            check(&field, *core, *core < SHARDS_MAX, "below 1024")?;
            check(&field, *core, !self.cores[..index].contains(core), "a CPU named once")?;
        }
        check("spin_us", self.spin_us, self.spin_us <= WAIT_US_MAX, "at most 1000000")?;
        check("linger_us", self.linger_us, self.linger_us <= WAIT_US_MAX, "at most 1000000")?;
        check(
            "buffer_bytes",
            self.buffer_bytes,
            self.buffer_bytes.is_power_of_two() && (4096..=65536).contains(&self.buffer_bytes),
            "a power of two from 4096 to 65536",
        )?;
        check(
            "buffers_max",
            self.buffers_max,
            (BUFFERS_MIN..=32768).contains(&self.buffers_max),
            "from 8 to 32768",
        )?;
        check(
            "buffers",
            self.buffers,
            (BUFFERS_MIN..=self.buffers_max).contains(&self.buffers),
            "from 8 to engine.buffers_max",
        )?;
        check(
            "ring_entries",
            self.ring_entries,
            self.ring_entries.is_power_of_two() && (64..=32768).contains(&self.ring_entries),
            "a power of two from 64 to 32768",
        )?;
        check("connections_max", self.connections_max, self.connections_max > 0, "above 0")?;
        check(
            "access_log_queue_bytes",
            self.access_log_queue_bytes,
            (65536..=1 << 30).contains(&self.access_log_queue_bytes),
            "from 65536 to 1073741824",
        )?;
        check(
            "stall_ms",
            self.stall_ms,
            (10..=60_000).contains(&self.stall_ms),
            "from 10 to 60000",
        )?;
        if let Some(cache) = &self.config_cache {
            let wait = cache.wait_ms;
            check("config_cache.wait_ms", wait, wait <= CACHE_WAIT_MS_MAX, "at most 600000")?;
            if cache.path.file_name().is_none() {
                return Err(EngineConfigError {
                    field: "config_cache.path".to_owned(),
                    value: format!("{:?}", cache.path),
                    expected: "the path of a file",
                });
            }
        }
        if let Some(upgrade) = &self.upgrade
            && upgrade.socket.file_name().is_none()
        {
            return Err(EngineConfigError {
                field: "upgrade.socket".to_owned(),
                value: format!("{:?}", upgrade.socket),
                expected: "the path of a socket",
            });
        }
        if let Some(upgrade) = &self.upgrade {
            let fits = (2..=PROCESSES_LIMIT).contains(&upgrade.max_processes);
            check("upgrade.max_processes", upgrade.max_processes, fits, "from 2 to 16")?;
        }
        self.services.validate()
    }
}

fn processes_max() -> u32 {
    PROCESSES_MAX
}

fn cache_wait_ms() -> u32 {
    CACHE_WAIT_MS
}

/// Each has its own memory; more than a few is a deployment that went wrong.
const PROCESSES_LIMIT: u32 = 16;

/// A third process may start while the first still drains.
pub const PROCESSES_MAX: u32 = 3;

/// Off: a sidecar shares its host, and a spinning shard takes a whole core from the application.
pub const SPIN_US: u32 = 0;

/// Two milliseconds cover the gaps of a busy connection; a true park costs about 6 us at one connection.
pub const LINGER_US: u32 = 2000;

/// Holds a whole usual request or response, so that its head is parsed in one piece.
pub const BUFFER_BYTES: u32 = 16_384;

/// 1 MiB per shard at start; idle connections hold none.
pub const BUFFERS: u32 = 64;

/// 16 MiB per shard.
pub const BUFFERS_MAX: u32 = 1024;

/// Fewer and a large shard would start to wait for room; each entry costs under 200 bytes.
pub const RING_ENTRIES: u32 = 1024;

/// What a host with default limits can hold open, with room for upstream connections.
pub const CONNECTIONS_MAX: u32 = 100_000;

/// Some ten thousand records.
pub const ACCESS_LOG_QUEUE_BYTES: u32 = 4 << 20;

/// Far above any turn's work, far below what a client would call an outage.
pub const STALL_MS: u32 = 250;

/// Less than what orchestrators give a start, more than a busy server needs.
pub const CACHE_WAIT_MS: u32 = 5000;

/// Ten minutes: longer waits are a mistake in the unit.
const CACHE_WAIT_MS_MAX: u32 = 600_000;

/// The kernel's own bound on CPUs in a `cpu_set_t`.
const SHARDS_MAX: u32 = 1024;

/// One second: longer waits are a mistake in the unit.
const WAIT_US_MAX: u32 = 1_000_000;

/// Fewer buffers cannot keep one connection busy in both directions.
const BUFFERS_MIN: u32 = 8;
