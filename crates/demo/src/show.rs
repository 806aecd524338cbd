//! The show: plays the scenes, and says at the end whether everything happened as it should.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::bail;
use clap::Parser;
use countersign_daemon::cli::{self, Exit, Printer};
use countersign_daemon::signals;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::render::Renderer;
use crate::scenes::{self, Show};
use crate::script::LIMIT;
use crate::workloads::Workloads;

#[derive(Debug, Parser)]
#[command(
    name = "countersign-demo",
    version,
    about = "Shows Countersign at work: a feedback loop between real agents is stopped.",
    long_about = "Shows Countersign at work: a feedback loop between real agents is stopped.\n\n\
        Starts a server, a node agent and four workloads as processes of their own, on free local ports, in a temporary \
        folder that is removed at the end. A task goes from planner to coder to reviewer and would go back to the planner, \
        again and again: policy allows each of these calls, and the signed chain of calls stops the loop. Then an \
        intruder, a flood of calls, and certificates that change under load. It ends by itself within a minute, with \
        exit code 0 only if everything happened as it should.",
    after_help = "The same program is every part of the show, so it can also be used to look around:\n  \
        countersign-demo server -h    the server and its command line\n  \
        countersign-demo agent -h     the node agent and its command line\n\n\
        With --keep, everything is left running and the commands to try are printed."
)]
struct Arguments {
    /// Leave everything running until Ctrl-C, and print how to look around
    #[arg(long)]
    keep: bool,
}

/// Runs the show.
pub(crate) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut printer = Printer::stdio();
    let arguments: Arguments = match cli::parse(args, &mut printer) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    // One thread: a part asks the system to end with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(&arguments, printer)),
        Err(error) => {
            printer.error(&error);
            printer.exit(Exit::Failure)
        }
    }
}

async fn run(arguments: &Arguments, printer: Printer) -> ExitCode {
    let mut out = Renderer::new(printer);
    let cluster = match Cluster::new() {
        Ok(cluster) => cluster,
        Err(error) => {
            out.failure(&error, &[]);
            return out.printer().exit(Exit::Failure);
        }
    };
    let mut show = Show {
        cluster,
        out,
        checks: Vec::new(),
    };
    let mut played = Box::pin(play(arguments, &mut show)).await;
    if let Err(error) = &played {
        show.out.failure(error, &show.cluster.log_tails());
    }
    let Show {
        cluster,
        mut out,
        checks,
    } = show;
    if let Err(error) = cluster.stop().await {
        out.failure(&error, &[]);
        played = Err(error);
    }
    let passed = played.is_ok() && checks.iter().all(|check| check.passed);
    out.printer()
        .exit(if passed { Exit::Success } else { Exit::Failure })
}

async fn play(arguments: &Arguments, show: &mut Show) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    signals::cancel_on_signal(stop.clone())?;
    show.out
        .title("Countersign: a feedback loop between real agents is stopped");
    let folder = show.cluster.shown("");
    show.out.explain(&format!(
        "Every part is a process of its own; their files are in {folder}."
    ));
    let played = tokio::select! {
        () = stop.cancelled() => bail!("it was interrupted"),
        played = tokio::time::timeout(LIMIT, play_scenes(show)) => played,
    };
    if !show.checks.is_empty() {
        show.out.summary(&show.checks);
    }
    let Ok(workloads) = played else {
        bail!("it was not over after {} s", LIMIT.as_secs());
    };
    let workloads = workloads?;
    if arguments.keep {
        scenes::look_around(show, workloads, &stop).await?;
    }
    Ok(())
}

async fn play_scenes(show: &mut Show) -> anyhow::Result<Workloads> {
    scenes::setup(show).await?;
    let mut workloads = Workloads::start(&show.cluster)?;
    let joined = scenes::identity(show, &mut workloads).await?;
    scenes::start_steady_calls(show, &mut workloads).await?;
    scenes::feedback_loop(show, &mut workloads).await?;
    scenes::intruder(show, &mut workloads).await?;
    scenes::flood(show, &mut workloads).await?;
    scenes::rotation(show, &mut workloads, &joined).await?;
    Ok(workloads)
}
