//! Logs, by SPIRE's three settings: `log_level`, `log_format` and `log_file`.
//!
//! They go to standard error unless a file is named. Libraries' lines are logged only from WARN on. The level can
//! change while the process runs; [`Levels`] is the handle for that.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Subscriber;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{Registry, registry, reload};

use crate::otlp::Otlp;
use crate::trace::SPANS;

/// The prefix of this project's log targets.
const OWN: &str = "countersign";

/// The target of audit lines. They are logged at every level once `audit_log_enabled` is set.
pub const AUDIT: &str = "countersign_audit";

/// The mode of a new log file.
const FILE_MODE: u32 = 0o640;

/// The least severity that is logged, with its number in SPIRE's API (`types.LogLevel`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum Level {
    /// Everything.
    Trace = 7,
    /// Details for debugging.
    Debug = 6,
    /// Normal operation, for operators.
    #[default]
    Info = 5,
    /// Faults that the daemon handles by itself.
    Warn = 4,
    /// Only faults that need an operator.
    Error = 3,
    /// Accepted because SPIRE has it. Nothing is logged: a fatal error is printed when the process exits.
    Fatal = 2,
    /// As [`Level::Fatal`]; SPIRE's level.
    Panic = 1,
}

/// Why a number is no level, in SPIRE's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLevel {
    /// 0.
    #[error("newLevel value cannot be LogLevel_UNSPECIFIED")]
    Unspecified,
    /// SPIRE has no level of this number.
    #[error("unsupported log level")]
    Unknown,
}

impl TryFrom<i32> for Level {
    type Error = InvalidLevel;

    fn try_from(number: i32) -> Result<Self, InvalidLevel> {
        match number {
            0 => Err(InvalidLevel::Unspecified),
            1 => Ok(Self::Panic),
            2 => Ok(Self::Fatal),
            3 => Ok(Self::Error),
            4 => Ok(Self::Warn),
            5 => Ok(Self::Info),
            6 => Ok(Self::Debug),
            7 => Ok(Self::Trace),
            _ => Err(InvalidLevel::Unknown),
        }
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A setting has a value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not one of {allowed}")]
pub struct UnknownValue {
    /// The value.
    pub value: String,
    /// The allowed values.
    pub allowed: &'static str,
}

impl FromStr for Level {
    type Err = UnknownValue;

    /// In any case, as SPIRE takes it.
    fn from_str(text: &str) -> Result<Self, UnknownValue> {
        match text.to_ascii_lowercase().as_str() {
            "trace" => Ok(Self::Trace),
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" | "warning" => Ok(Self::Warn),
            "error" => Ok(Self::Error),
            "fatal" => Ok(Self::Fatal),
            "panic" => Ok(Self::Panic),
            _ => Err(UnknownValue {
                value: text.to_owned(),
                allowed: "TRACE, DEBUG, INFO, WARN, ERROR, FATAL, PANIC",
            }),
        }
    }
}

impl FromStr for Format {
    type Err = UnknownValue;

    /// In any case, as SPIRE takes it.
    fn from_str(text: &str) -> Result<Self, UnknownValue> {
        match text.to_ascii_lowercase().as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(UnknownValue {
                value: text.to_owned(),
                allowed: "text, json",
            }),
        }
    }
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => Self::TRACE,
            Level::Debug => Self::DEBUG,
            Level::Info => Self::INFO,
            Level::Warn => Self::WARN,
            Level::Error => Self::ERROR,
            Level::Fatal | Level::Panic => Self::OFF,
        }
    }
}

impl fmt::Display for Level {
    /// As SPIRE's tools print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warning",
            Self::Error => "error",
            Self::Fatal => "fatal",
            Self::Panic => "panic",
        })
    }
}

/// The level of this process's logs, now and at its start. Clones are one handle.
#[derive(Clone)]
pub struct Levels {
    launch: Level,
    current: Arc<Mutex<Level>>,
    filter: reload::Handle<Targets, Registry>,
}

impl Levels {
    /// The level that the configuration asked for.
    #[must_use]
    pub const fn launch(&self) -> Level {
        self.launch
    }

    /// The level at the moment.
    #[must_use]
    pub fn current(&self) -> Level {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the level, for all lines from now on.
    pub fn set(&self, level: Level) {
        // Held until the filter is updated, so that concurrent changes can't leave the two with different levels.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Once set up the subscriber is global. Before that, and in tests, it may not exist: then nothing is logged.
        let _ = self.filter.reload(filter(level));
        *current = level;
    }

    /// Changes the level as a caller of SPIRE's Logger API asks, and logs that.
    ///
    /// # Errors
    /// The number is no level.
    pub fn set_by_number(&self, number: i32) -> Result<(), InvalidLevel> {
        let level = Level::try_from(number)?;
        // Logged at a level that is visible before or after the change.
        tracing::info!(%level, "Log level is set");
        self.set(level);
        tracing::info!(%level, "Log level was set");
        Ok(())
    }

    /// Resets the level to the configured one, and logs that.
    pub fn reset(&self) {
        self.set(self.launch);
        tracing::info!(level = %self.launch, "Log level was reset");
    }

    /// A handle without a subscriber, for a daemon embedded in a process with logging of its own.
    #[must_use]
    pub fn detached(level: Level) -> Self {
        Self::new(level, reload::Layer::new(filter(level)).1)
    }

    fn new(launch: Level, filter: reload::Handle<Targets, Registry>) -> Self {
        Self {
            launch,
            current: Arc::new(Mutex::new(launch)),
            filter,
        }
    }
}

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Levels")
            .field("launch", &self.launch)
            .field("current", &self.current())
            .finish_non_exhaustive()
    }
}

fn filter(level: Level) -> Targets {
    let level = LevelFilter::from(level);
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target(OWN, level)
        .with_target(AUDIT, LevelFilter::INFO)
        .with_target(SPANS, LevelFilter::OFF)
}

/// The settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// `log_level`.
    pub level: Level,
    /// `log_format`.
    pub format: Format,
    /// `log_file`; appended to, and made with 0640 if missing.
    pub file: Option<PathBuf>,
}

/// Logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file could not be opened.
    #[error("cannot open the log file {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Logging was already set up in this process.
    #[error("logs are set up already")]
    Already,
}

/// Sets up logging for this process, once, and the export of spans if `otlp` is given. Returns the handle that changes
/// the level.
///
/// # Errors
/// [`LogError`].
pub fn init(options: &LogOptions, otlp: Option<&Otlp>) -> Result<Levels, LogError> {
    let (subscriber, levels) = match &options.file {
        Some(path) => subscriber(options, Mutex::new(open(path)?), false, otlp),
        None => subscriber(options, io::stderr, stderr_shows_colours(), otlp),
    };
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Already)?;
    Ok(levels)
}

fn open(path: &Path) -> Result<File, LogError> {
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .open(path);
    opened.map_err(|source| LogError::File {
        path: path.to_owned(),
        source,
    })
}

fn stderr_shows_colours() -> bool {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    wanted && io::stderr().is_terminal()
}

fn subscriber<W>(
    options: &LogOptions,
    writer: W,
    colours: bool,
    otlp: Option<&Otlp>,
) -> (Box<dyn Subscriber + Send + Sync>, Levels)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(options.level));
    let levels = Levels::new(options.level, handle);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(colours);
    let subscriber: Box<dyn Subscriber + Send + Sync> = match options.format {
        Format::Text => {
            let lines = registry().with(lines.with_filter(filter));
            Box::new(lines.with(otlp.and_then(Otlp::layer)))
        }
        Format::Json => {
            let lines = lines.json().flatten_event(true);
            let lines = registry().with(lines.with_filter(filter));
            Box::new(lines.with(otlp.and_then(Otlp::layer)))
        }
    };
    (subscriber, levels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(options: &LogOptions) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (subscriber, _) = subscriber(options, Mutex::new(open(&path).unwrap()), false, None);
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!(target: "countersign_server::store", entries = 3, "loaded");
            tracing::info!(target: "countersign_server::store", "ready");
            tracing::info!(target: "h2::codec", "frame");
            tracing::warn!(target: "h2::codec", "odd frame");
        });
        std::fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn the_level_is_for_own_lines_and_libraries_log_from_warn_on() {
        let text = logged(&LogOptions::default());
        assert!(text.contains("ready") && !text.contains("loaded"), "{text}");
        assert!(
            text.contains("odd frame") && text.lines().count() == 2,
            "{text}"
        );
        let text = logged(&LogOptions {
            level: Level::Debug,
            ..LogOptions::default()
        });
        assert!(text.contains("loaded entries=3"), "{text}");
        let text = logged(&LogOptions {
            level: Level::Error,
            ..LogOptions::default()
        });
        assert_eq!(text, "");
    }

    #[test]
    fn json_is_one_flat_object_per_line() {
        let text = logged(&LogOptions {
            level: Level::Debug,
            format: Format::Json,
            file: None,
        });
        let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(
            (&first["level"], &first["entries"]),
            (&"DEBUG".into(), &3.into())
        );
    }

    #[test]
    fn settings_are_read_in_any_case_and_others_refused_by_name() {
        assert_eq!(
            ("warn".parse(), "WARNING".parse()),
            (Ok(Level::Warn), Ok(Level::Warn))
        );
        assert_eq!("JSON".parse(), Ok(Format::Json));
        let error = "loud".parse::<Level>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"loud\" is not one of TRACE, DEBUG, INFO, WARN, ERROR, FATAL, PANIC"
        );
    }

    #[test]
    fn the_level_changes_while_lines_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let writer = Mutex::new(open(&path).unwrap());
        let (subscriber, levels) = subscriber(&LogOptions::default(), writer, false, None);
        tracing::subscriber::with_default(subscriber, || {
            for level in [Level::Info, Level::Debug, Level::Panic] {
                levels.set(level);
                assert_eq!((levels.launch(), levels.current()), (Level::Info, level));
                tracing::debug!(target: "countersign_server", "debug at {level}");
                tracing::error!(target: "countersign_server", "error at {level}");
                tracing::info!(target: AUDIT, "audit at {level}");
            }
            levels.reset();
            tracing::debug!(target: "countersign_server", "debug at the end");
        });
        let text = std::fs::read_to_string(&path).unwrap();
        let said: Vec<&str> = text
            .lines()
            .map(|line| line.split_once(": ").unwrap().1)
            .collect();
        let want = [
            "error at info",
            "audit at info",
            "debug at debug",
            "error at debug",
            "audit at debug",
            "audit at panic",
            "Log level was reset level=info",
        ];
        assert_eq!(said, want);
    }
}
