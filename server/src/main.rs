//! The binary; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    countersign_server::main(std::env::args_os())
}
