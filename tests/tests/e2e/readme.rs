//! The commands of README, pasted into a shell as they stand and all at once.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::ensure;
use countersign_tests::deployment::text;
use countersign_tests::process::{self, Process};

use crate::NODE;

const README: &str = include_str!("../../../README.md");

/// What stands in README's blocks of commands, apart from cargo's: these build what the tests have built.
fn commands() -> String {
    let (mut commands, mut inside) = (String::new(), false);
    for line in README.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside && !line.starts_with("cargo ") => {
                commands.push_str(line);
                commands.push('\n');
            }
            _ => {}
        }
    }
    commands
}

#[tokio::test]
async fn readme_can_be_pasted_into_a_shell_whole() -> anyhow::Result<()> {
    let folder = process::short_folder()?;
    // README puts target/release into the PATH. The programs there are this build's, each with a socket in the folder,
    // so that the test meets no daemon of the machine.
    let programs = folder.path().join("target/release");
    fs::create_dir_all(&programs)?;
    for part in ["server", "agent"] {
        let program = programs.join(format!("countersign-{part}"));
        let socket = folder.path().join(format!("{part}.sock"));
        let socket = text(&socket)?;
        let script = format!("#!/bin/sh\nexec '{NODE}' {part} \"$@\" -socketPath '{socket}'\n");
        fs::write(&program, script)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    }
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let commands = commands().replace("8081", &free.to_string());

    let start = ["-c", "cd \"$0\" && exec sh", text(folder.path())?];
    let mut shell = Process::start("the shell", "/bin/sh".as_ref(), &start, &[])?;
    shell.enter(&commands).await?;
    shell.printed("Received 1 svid").await?;
    let line = shell.line("SPIFFE ID:").await?;
    ensure!(line.ends_with("spiffe://example.org/planner"), "{line}");

    // In a pipe or a subshell some shells list no jobs.
    shell
        .enter("jobs -p > pids; kill $(cat pids); wait; exit")
        .await?;
    let ended = shell.wait().await?;
    ensure!(ended.success(), "{ended}");
    Ok(())
}
