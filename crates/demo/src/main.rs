//! The main job in one command, as a program to read and to run: a feedback loop between real agents is stopped.
//!
//! One program is everything, by its first argument: without one it directs the show ([`show`]); as `server` and `agent`
//! it is the two daemons, and as `workload` one of the four workloads ([`workload`]). Each runs as a process of its own.
//! To see how an agent is written, read `workload/`; to see how a trust domain is set up, `scenes/setup.rs`.

mod checks;
mod cluster;
mod protocol;
mod render;
mod scenes;
mod script;
mod show;
mod workload;
mod workloads;

use std::ffi::OsString;
use std::process::ExitCode;

use nix::sys::prctl;
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    let first = args.next();
    let part = first.as_ref().and_then(|part| part.to_str());
    match part.unwrap_or_default() {
        "server" => child(program, args, countersign_server::main),
        "agent" => child(program, args, countersign_agent::main),
        "workload" => child(program, args, workload::main),
        _ => show::main([program].into_iter().chain(first).chain(args)),
    }
}

/// Runs a part that must not outlive the show, however the show ends.
fn child(
    program: OsString,
    rest: std::env::ArgsOs,
    main: impl FnOnce(std::iter::Chain<std::iter::Once<OsString>, std::env::ArgsOs>) -> ExitCode,
) -> ExitCode {
    if std::env::var_os(script::PART_OF_SHOW).is_some() {
        // Where the system refuses, the parts end with their pipes and signals all the same.
        let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    }
    main(std::iter::once(program).chain(rest))
}
