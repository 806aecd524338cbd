//! The measures of the code: how large its parts are, what they export, where they are tangled, what is dead.
//!
//! `measure [-output json] [PATH]` reads the workspace at `PATH`, or the one that it was built from, and prints one row
//! for each crate and then each finding with its place. It judges nothing: `tests/tests/walls.rs` does.

mod dependencies;
mod measures;
mod names;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use countersign_tests::source::Workspace;

use measures::Measures;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Table,
    Json,
}

fn main() -> ExitCode {
    match measure(std::env::args().skip(1)) {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn measure(mut args: impl Iterator<Item = String>) -> anyhow::Result<String> {
    let (mut format, mut path) = (Format::Table, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-output" | "--output" => {
                format = match args.next().as_deref() {
                    Some("json") => Format::Json,
                    Some("table") => Format::Table,
                    _ => bail!("-output is json or table"),
                }
            }
            flag if flag.starts_with('-') => bail!("unknown flag {flag}"),
            _ => path = Some(PathBuf::from(arg)),
        }
    }
    let workspace = match path {
        Some(path) => Workspace::read(&path)?,
        None => Workspace::of_this_crate()?,
    };
    let measures = Measures::take(&workspace);
    match format {
        Format::Table => Ok(table::text(&measures)),
        Format::Json => serde_json::to_string_pretty(&measures).context("writing JSON"),
    }
}

#[expect(clippy::print_stdout, reason = "what this program is for")]
fn print(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "what this program is for")]
fn complain(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
