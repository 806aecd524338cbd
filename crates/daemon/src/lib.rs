//! What only the programs need, server and node agent alike, and what an agent that links the library never gets.
//!
//! | module | what it gives |
//! |---|---|
//! | [`cli`], [`config`] | the command line: parsing, output in two formats, exit codes; the settings that all have |
//! | [`logs`], [`trace`], [`otlp`] | the log, spans, and their way to an OpenTelemetry collector |
//! | [`health`], [`metrics`], [`operator_endpoints`] | what operators see, and the endpoints for it |
//! | [`address_file`], [`signals`], [`systemd`] | where a daemon listens, when it has to end, and what systemd is told |
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
