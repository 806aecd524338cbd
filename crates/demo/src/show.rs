//! The show: builds the stage, plays the scenes, and says at the end whether all happened as it should.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use countersign_daemon::cli::{self, Exit, Printer};
use countersign_daemon::signals;
use tokio_util::sync::CancellationToken;

use crate::paper::Paper;
use crate::scene;
use crate::script::LIMIT;
use crate::stage::{Cast, Deadline, Stage};
use crate::verdict::{Check, Verdict};

/// How many lines of each log are shown when something fails.
const TAIL: usize = 10;

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
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            printer.error(&error);
            return printer.exit(Exit::Failure);
        }
    };
    let mut paper = Paper::new(printer);
    let exit = runtime.block_on(run(&arguments, &mut paper));
    paper.printer().exit(exit)
}

async fn run(arguments: &Arguments, paper: &mut Paper) -> Exit {
    let stop = CancellationToken::new();
    let staged = signals::cancel_on_signal(stop.clone()).map_err(anyhow::Error::from);
    let mut stage = match staged.and_then(|()| Stage::build(Deadline::after(LIMIT))) {
        Ok(stage) => stage,
        Err(error) => {
            paper.failure(&error, &[]);
            return Exit::Failure;
        }
    };
    let mut exit = match stop
        .run_until_cancelled(Box::pin(play(&mut stage, paper)))
        .await
    {
        Some(Ok((verdict, cast))) => {
            let kept = if arguments.keep {
                scene::keep(&stage, cast, paper, &stop).await
            } else {
                Ok(())
            };
            ended(kept.map(|()| verdict), &stage, paper)
        }
        Some(Err(error)) => ended(Err(error), &stage, paper),
        None => {
            paper.failure(&anyhow::anyhow!("it was interrupted"), &[]);
            Exit::Failure
        }
    };
    if let Err(error) = stage.close().await {
        paper.failure(&error, &[]);
        exit = Exit::Failure;
    }
    exit
}

fn ended(played: anyhow::Result<Verdict>, stage: &Stage, paper: &mut Paper) -> Exit {
    match played {
        Ok(Verdict::Ok) => Exit::Success,
        Ok(Verdict::Failed) => Exit::Failure,
        Err(error) => {
            paper.failure(&error, &stage.log_tails(TAIL));
            Exit::Failure
        }
    }
}

async fn play(stage: &mut Stage, paper: &mut Paper) -> anyhow::Result<(Verdict, Cast)> {
    paper.title("Countersign: a feedback loop between real agents is stopped");
    paper.say(&format!(
        "Every part is a process of its own; their files are in {}.",
        stage.folder().display()
    ));
    let mut checks = Vec::new();
    let played = scenes(stage, paper, &mut checks).await;
    if !checks.is_empty() {
        paper.summary(&checks);
    }
    let cast = played?;
    Ok((verdict(&checks, paper), cast))
}

fn verdict(checks: &[Check], paper: &mut Paper) -> Verdict {
    let failed = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Failed)
        .count();
    paper.line("");
    if failed == 0 {
        paper.result(Verdict::Ok, "Everything happened as it should.");
        Verdict::Ok
    } else {
        let text = format!("{failed} of {} did not happen as it should.", checks.len());
        paper.result(Verdict::Failed, &text);
        Verdict::Failed
    }
}

async fn scenes(
    stage: &mut Stage,
    paper: &mut Paper,
    checks: &mut Vec<Check>,
) -> anyhow::Result<Cast> {
    scene::set(stage, paper).await?;
    let mut cast = Cast::start(stage)?;
    let (joined, check) = scene::identity(stage, &mut cast, paper).await?;
    checks.push(check);
    scene::start_steady_calls(&mut cast, paper).await?;
    checks.extend(scene::task(&mut cast, paper).await?);
    checks.extend(scene::intruder(&mut cast, paper).await?);
    checks.push(scene::flood(&mut cast, paper).await?);
    checks.push(scene::rotation(&mut cast, paper, &joined).await?);
    Ok(cast)
}
