//! The binary; everything is in the library.

fn main() -> std::process::ExitCode {
    countersign_agent::main(std::env::args_os())
}
