//! `run` and `validate`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use countersign_config::{Expansion, InvalidConfig, Warning};
use countersign_daemon::cli::{Exit, Launch, OutputFlag, Printer, refuse, validated};
use countersign_daemon::logs::{Format, Level};
use countersign_identity::TrustDomain;
use countersign_transport::SystemClock;
use nix::sys::stat::Mode;

use crate::config::{DEFAULT_FILE, Overrides, ServerConfig};
use crate::daemon::{self, ServeError, StartError};

/// New files and folders get no permissions for group and others.
const UMASK: Mode = Mode::S_IRWXG.union(Mode::S_IRWXO);

/// What `run` and `validate` read; flags go before the same keys of the file.
#[derive(Debug, Args)]
struct ConfigFlags {
    /// Path to a configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// IP address or DNS name of the server
    #[arg(long = "bindAddress", value_name = "ADDRESS")]
    bind_address: Option<String>,
    /// Port number of the server; 0 takes a free one
    #[arg(long = "serverPort", value_name = "PORT")]
    server_port: Option<u16>,
    /// Path to bind the server's API socket to
    #[arg(long = "socketPath", value_name = "PATH")]
    socket_path: Option<PathBuf>,
    /// The trust domain that this server belongs to
    #[arg(long = "trustDomain", value_name = "NAME", value_parser = TrustDomain::from_name_or_id)]
    trust_domain: Option<TrustDomain>,
    /// Directory to store runtime data to
    #[arg(long = "dataDir", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// 'debug', 'info', 'warn', or 'error'
    #[arg(long = "logLevel", value_name = "LEVEL")]
    log_level: Option<Level>,
    /// 'text' or 'json'
    #[arg(long = "logFormat", value_name = "FORMAT")]
    log_format: Option<Format>,
    /// File to write logs to
    #[arg(long = "logFile", value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Taken for SPIRE's sake: log lines name the module they come from
    #[arg(long = "logSourceLocation", hide = true)]
    log_source_location: bool,
    /// Expand environment variables in the configuration file
    #[arg(long = "expandEnv")]
    expand_env: bool,
}

impl ConfigFlags {
    fn load(&self) -> Result<(ServerConfig, Vec<Warning>), InvalidConfig> {
        let overrides = Overrides {
            bind_address: self.bind_address.clone(),
            bind_port: self.server_port,
            socket_path: self.socket_path.clone(),
            trust_domain: self.trust_domain.clone(),
            data_dir: self.data_dir.clone(),
            log_level: self.log_level,
            log_format: self.log_format,
            log_file: self.log_file.clone(),
        };
        let expansion = if self.expand_env {
            Expansion::Environment
        } else {
            Expansion::None
        };
        ServerConfig::load(&self.config, expansion, &overrides)
    }
}

/// `run`.
#[derive(Debug, Args)]
#[command(after_help = "A configuration that starts:\n  \
    server {\n    trust_domain = \"example.org\"\n    data_dir = \"./data\"\n  }\n  \
    plugins {\n    NodeAttestor \"join_token\" { plugin_data {} }\n    \
    KeyManager \"disk\" { plugin_data { keys_path = \"./data/keys.json\" } }\n  }\n\
    Then:\n  countersign-server run -config server.conf\n\
    Ends with 0 after SIGTERM or SIGINT, 64 if the configuration is wrong, 70 if a part of it failed, else 1.")]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigFlags,
    /// File to write the addresses to once the server serves: lines such as tcp=127.0.0.1:8081 and unix=/run/api.sock
    #[arg(long = "addressFile", value_name = "FILE")]
    address_file: Option<PathBuf>,
}

/// `validate`.
#[derive(Debug, Args)]
#[command(
    after_help = "Checks the file and starts nothing:\n  countersign-server validate -config server.conf\n\
    Ends with 0 if the configuration is right, else with 1."
)]
pub(super) struct Validate {
    #[command(flatten)]
    config: ConfigFlags,
    #[command(flatten)]
    output: OutputFlag,
}

/// `service.name` of the exported traces and metrics.
const SERVICE: &str = "countersign-server";

/// Why `run` ended with something else than 0.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("the server did not start")]
    Start(#[from] StartError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl RunError {
    const fn exit(&self) -> Exit {
        match self {
            Self::Serve(ServeError::Task(_)) => Exit::Software,
            _ => Exit::Failure,
        }
    }
}

impl Run {
    pub(super) fn execute(self, printer: &mut Printer) -> ExitCode {
        let (config, warnings) = match self.config.load() {
            Ok(loaded) => loaded,
            Err(error) => return refuse(printer, &error),
        };
        // What the server writes is not for others on this machine: join tokens are among it. Sockets, logs and the
        // address file have modes of their own.
        nix::sys::stat::umask(UMASK);
        // A second provider in the process would make rustls panic where a library asks for the default one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let launch = Launch {
            service: SERVICE,
            version: env!("CARGO_PKG_VERSION"),
            threads: None,
            logs: &config.logs,
            otlp: config.operators.otlp.as_ref(),
            warnings: &warnings,
        };
        let address_file = self.address_file.as_deref();
        let launched = launch.run(address_file, async |levels, otlp, stop| {
            let bound = daemon::build(&config, levels, otlp, SystemClock::shared()).await?;
            Ok::<_, RunError>(bound.serve(stop, address_file).await?)
        });
        let ended = match launched {
            Ok(ended) => ended,
            Err(error) => {
                printer.error(&error);
                return printer.exit(error.exit());
            }
        };
        match ended {
            Ok(()) => printer.exit(Exit::Success),
            Err(error) => {
                printer.error(&error);
                printer.exit(error.exit())
            }
        }
    }
}

impl Validate {
    pub(super) fn execute(self, printer: &mut Printer) -> ExitCode {
        let checked = self.config.load().map(|(_, warnings)| warnings);
        validated(printer, self.output.output, "server", checked)
    }
}
