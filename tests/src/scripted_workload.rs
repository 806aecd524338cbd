//! A workload that links the library and does as it is told: it calls whom a plan names, with plans for them in turn,
//! and reports what came of it.
//!
//! The harness talks to it by lines: `run <n> <plan>` on its input is answered by `done <n> <outcomes>` on its output.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use axum::Json;
use axum::extract::{Request, State};
use axum::routing::post;
use axum::{RequestExt as _, Router};
use bytes::Bytes;
use countersign::{CallError, Chain, Context, Mesh, RefusedBy};
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::process::Process;

/// What a workload is to do before it answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// The calls, one after the other.
    pub calls: Vec<Call>,
    /// Whether the calls are made in a task that lost the context.
    #[serde(default)]
    pub forget: bool,
}

/// One call, made `times` times.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// The callee's SPIFFE ID.
    pub to: String,
    /// The callee's address and port.
    pub at: String,
    /// How often.
    pub times: u32,
    /// What the callee is granted, if not the default.
    pub grant: Option<u16>,
    /// What the callee is to do.
    pub plan: Plan,
}

impl Call {
    /// One call with the default grant and nothing more to do for the callee.
    #[must_use]
    pub fn new(to: &ScriptedWorkload) -> Self {
        Self {
            to: to.id.clone(),
            at: to.address.clone(),
            times: 1,
            grant: None,
            plan: Plan::default(),
        }
    }

    /// With a call that the callee makes in turn.
    #[must_use]
    pub fn then(mut self, next: Self) -> Self {
        self.plan.calls.push(next);
        self
    }

    /// Made this often.
    #[must_use]
    pub const fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    /// Granting this much.
    #[must_use]
    pub const fn grant(mut self, calls: u16) -> Self {
        self.grant = Some(calls);
        self
    }
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The callee answered.
    Answered(Report),
    /// It was refused, by the caller's own library or by the callee.
    Refused {
        /// The reason, as it stands on the wire.
        reason: String,
        /// Whether nothing was sent.
        here: bool,
    },
    /// There was no answer.
    Failed(String),
}

impl Outcome {
    /// The reason of a refusal.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        match self {
            Self::Refused { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// The outcomes of the calls that the callee made.
    #[must_use]
    pub fn downstream(&self) -> &[Self] {
        match self {
            Self::Answered(report) => &report.outcomes,
            _ => &[],
        }
    }

    /// The last outcome along the first calls of each level.
    #[must_use]
    pub fn deepest(&self) -> &Self {
        self.downstream().first().map_or(self, Self::deepest)
    }
}

/// A callee's view of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Everyone in the chain, the originator first, the callee last.
    pub members: Vec<String>,
    /// The length of the chain.
    pub hop: u8,
    /// The chain's ID.
    pub chain: String,
    /// What came of the calls that it made.
    pub outcomes: Vec<Outcome>,
}

/// The workload's process: `--addressFile PATH` tells where it writes its address once it serves.
#[must_use]
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = args.skip(1).collect();
    let file = match arguments.as_slice() {
        [flag, path] if flag == "--addressFile" => PathBuf::from(path),
        _ => return ExitCode::from(64),
    };
    let Ok(runtime) = tokio::runtime::Runtime::new() else {
        return ExitCode::FAILURE;
    };
    match runtime.block_on(serve(file)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the harness collects it")]
            {
                eprintln!("{error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn serve(address_file: PathBuf) -> anyhow::Result<()> {
    let mesh = Mesh::join().wait(Duration::from_secs(30)).await?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/work", post(work))
        .with_state(mesh.clone());
    let serving = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.serve(listener, router).await }
    });
    tokio::spawn(tell_rotations(mesh.clone()));
    std::fs::write(address_file, format!("tcp={address}\n"))?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let mut words = line.splitn(3, ' ');
        let (Some(verb), Some(number), Some(plan)) = (words.next(), words.next(), words.next())
        else {
            anyhow::bail!("not a command: {line}");
        };
        let plan: Plan = serde_json::from_str(plan)?;
        let outcomes = match verb {
            // As one piece of work.
            "run" => match Chain::start(&mesh) {
                Ok(chain) => chain.scope(carry_out(&mesh, &plan)).await,
                Err(error) => vec![outcome_of(&error)],
            },
            // Each call by itself.
            "loose" => carry_out(&mesh, &plan).await,
            "steady" => {
                tokio::spawn(steady(mesh.clone(), plan, number.to_owned()));
                continue;
            }
            _ => anyhow::bail!("not a command: {line}"),
        };
        tell(&format!(
            "done {number} {}",
            serde_json::to_string(&outcomes)?
        ))
        .await?;
    }
    serving.abort();
    Ok(())
}

async fn tell(line: &str) -> std::io::Result<()> {
    let mut out = tokio::io::stdout();
    out.write_all(format!("{line}\n").as_bytes()).await?;
    out.flush().await
}

async fn tell_rotations(mesh: Mesh) {
    while let Some(svid) = mesh.updated().await {
        if tell(&format!("rotated {}", svid.serial())).await.is_err() {
            return;
        }
    }
}

/// Makes the plan's calls over and over, one piece of work each; tells the first failure, and the count every hundred.
async fn steady(mesh: Mesh, plan: Plan, number: String) {
    let (mut made, mut failed) = (0_u64, 0_u64);
    loop {
        let outcomes = match Chain::start(&mesh) {
            Ok(chain) => chain.scope(carry_out(&mesh, &plan)).await,
            Err(error) => vec![outcome_of(&error)],
        };
        for outcome in outcomes {
            made += 1;
            if !matches!(outcome, Outcome::Answered(_)) {
                failed += 1;
                let _ = tell(&format!("failure {number} {outcome:?}")).await;
            }
        }
        if made % 100 == 0
            && tell(&format!("steady {number} made={made} failed={failed}"))
                .await
                .is_err()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The handler.
async fn work(State(mesh): State<Mesh>, request: Request) -> Json<Report> {
    let context = Context::from_extensions(request.extensions());
    let plan = match request.extract::<Bytes, _>().await {
        Ok(body) => serde_json::from_slice(&body).unwrap_or_default(),
        Err(_) => Plan::default(),
    };
    let plan: Plan = plan;
    let outcomes = if plan.forget {
        tokio::spawn(async move { carry_out(&mesh, &plan).await })
            .await
            .unwrap_or_default()
    } else {
        carry_out(&mesh, &plan).await
    };
    Json(Report {
        members: context
            .iter()
            .flat_map(|c| c.members().map(ToString::to_string))
            .collect(),
        hop: context.as_ref().map_or(0, Context::hop),
        chain: context
            .map(|c| c.chain_id().to_string())
            .unwrap_or_default(),
        outcomes,
    })
}

async fn carry_out(mesh: &Mesh, plan: &Plan) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for call in &plan.calls {
        let address = format!("https://{}", call.at);
        let client = match mesh.client(&call.to).and_then(|callee| callee.at(address)) {
            Ok(client) => client,
            Err(error) => {
                outcomes.push(Outcome::Failed(error.to_string()));
                continue;
            }
        };
        let client = match call.grant {
            Some(calls) => client.grant(calls),
            None => client,
        };
        for _ in 0..call.times {
            outcomes.push(match make(&client.http(), &call.plan).await {
                Ok(report) => Outcome::Answered(report),
                Err(error) => match error.downcast_ref::<CallError>() {
                    Some(error) => outcome_of(error),
                    None => Outcome::Failed(format!("{error:#}")),
                },
            });
        }
    }
    outcomes
}

async fn make(client: &countersign::outbound::HttpClient, plan: &Plan) -> anyhow::Result<Report> {
    let body = axum::body::Body::from(serde_json::to_vec(plan)?);
    let request = http::Request::post("/work").body(body)?;
    let response = client.send(request).await?;
    let status = response.status();
    anyhow::ensure!(status.is_success(), "answered with {status}");
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|e| anyhow::anyhow!(e))?
        .to_bytes();
    serde_json::from_slice(&body).context("reading the answer")
}

fn outcome_of(error: &CallError) -> Outcome {
    match error.refused() {
        Some(refused) => Outcome::Refused {
            reason: refused.reason().as_str().to_owned(),
            here: refused.by() == RefusedBy::ThisWorkload,
        },
        None => Outcome::Failed(format!("{error:?}")),
    }
}

/// A running scripted workload, as the tests see it.
#[derive(Debug)]
pub struct ScriptedWorkload {
    /// Its SPIFFE ID.
    pub id: String,
    /// Where it listens.
    pub address: String,
    /// Its process.
    pub process: Process,
    commands: u32,
}

impl ScriptedWorkload {
    /// One that has written its address.
    #[must_use]
    pub const fn new(id: String, address: String, process: Process) -> Self {
        Self {
            id,
            address,
            process,
            commands: 0,
        }
    }

    /// Carries out a plan as one piece of work.
    ///
    /// # Errors
    /// It ended, or did not answer in time.
    pub async fn run(&mut self, calls: Vec<Call>) -> anyhow::Result<Vec<Outcome>> {
        self.command(
            "run",
            Plan {
                calls,
                forget: false,
            },
        )
        .await
    }

    /// Makes calls that belong to no piece of work.
    ///
    /// # Errors
    /// As [`ScriptedWorkload::run`].
    pub async fn loose(&mut self, calls: Vec<Call>) -> anyhow::Result<Vec<Outcome>> {
        self.command(
            "loose",
            Plan {
                calls,
                forget: false,
            },
        )
        .await
    }

    /// Makes calls from now on, until the process ends; [`Process::output`] has `steady` and `failure` lines.
    ///
    /// # Errors
    /// It ended.
    pub async fn steady(&mut self, calls: Vec<Call>) -> anyhow::Result<()> {
        self.commands += 1;
        let plan = serde_json::to_string(&Plan {
            calls,
            forget: false,
        })?;
        self.process
            .enter(&format!("steady {} {plan}", self.commands))
            .await
    }

    async fn command(&mut self, verb: &str, plan: Plan) -> anyhow::Result<Vec<Outcome>> {
        self.commands += 1;
        let number = self.commands;
        self.process
            .enter(&format!(
                "{verb} {number} {}",
                serde_json::to_string(&plan)?
            ))
            .await?;
        let answer = format!("done {number} ");
        let line = self.process.line(&answer).await?;
        serde_json::from_str(&line[answer.len()..]).context("reading the outcomes")
    }
}
