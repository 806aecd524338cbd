//! Server, node agent, workload or interoperability peer, by the first argument: the daemons of the end-to-end tests.

use std::process::ExitCode;

use nix::sys::prctl;
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    // Nothing outlives the test that started it, however that ends.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    let part = args.next().unwrap_or_default();
    let rest = std::iter::once(program).chain(args);
    match part.to_str() {
        Some("server") => countersign_server::main(rest),
        Some("agent") => countersign_agent::main(rest),
        Some("workload") => countersign_tests::scripted_workload::main(rest),
        Some("peer") => countersign_tests::peer::main(),
        _ => ExitCode::from(64),
    }
}
