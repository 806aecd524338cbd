//! The program: what it does stands in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    countersign_server::main(std::env::args_os())
}
