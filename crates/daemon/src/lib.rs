//! What the server and the node agent share as programs. The workload library does not depend on it.
//!
//! | module | what it gives |
//! |---|---|
//! | [`cli`], [`config`] | the command line: parsing, output in two formats, exit codes; the common settings |
//! | [`logs`], [`trace`], [`otlp`] | the log, spans, and their export to an OpenTelemetry collector |
//! | [`health`], [`metrics`], [`operator_endpoints`] | health and metrics, and the endpoints that serve them |
//! | [`address_file`], [`signals`], [`systemd`] | the listening addresses, shutdown by signal, and notifying systemd |
//!
//! Feature `otlp`, which is on by default, is the OpenTelemetry exporter with its crates.

pub mod address_file;
pub mod cli;
pub mod config;
pub mod health;
pub mod logs;
pub mod metrics;
pub mod operator_endpoints;
pub mod otlp;
mod recorder;
pub mod signals;
pub mod systemd;
pub mod trace;
