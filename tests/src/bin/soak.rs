//! The soak: authorities of a minute and SVIDs of seconds, two workloads that call each other all along, and a third
//! party that makes new handshakes all along. Not one handshake and not one call may fail.
//!
//! `soak [--seconds N] [--restart-every N]`: for so many seconds (600), with a restart of the server every so many (0:
//! never). Prints one line every ten seconds and the sums at the end; exit code 1 if anything failed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use countersign_attacker::Attacker;
use countersign_identity::SpiffeId;
use countersign_proto::spire::api::server::localauthority::v1 as wire;
use countersign_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use countersign_tests::deployment::{Deployment, Settings, TRUST_DOMAIN, allow};
use countersign_tests::scripted_workload::{Call, ScriptedWorkload};
use countersign_transport::dial::UnixConnector;
use http::Request;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};

/// The lifetime of an authority.
const CA_TTL: &str = "60s";
/// The lifetime of the workloads' SVIDs, in seconds.
const ENTRY_TTL: [&str; 2] = ["-x509SVIDTTL", "20"];
/// Between two handshakes of the third party.
const HANDSHAKE_PAUSE: Duration = Duration::from_millis(50);
/// Between two lines of output.
const REPORT: Duration = Duration::from_secs(10);

/// How long, and what happens meanwhile.
struct Plan {
    lasts: Duration,
    restart_every: Option<Duration>,
}

impl Plan {
    fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut plan = Self {
            lasts: Duration::from_secs(600),
            restart_every: None,
        };
        while let Some(flag) = args.next() {
            let value = args
                .next()
                .with_context(|| format!("{flag} needs a value"))?;
            let seconds = Duration::from_secs(value.parse().context("a number of seconds")?);
            match flag.as_str() {
                "--seconds" => plan.lasts = seconds,
                "--restart-every" => plan.restart_every = Some(seconds).filter(|s| !s.is_zero()),
                _ => anyhow::bail!("unknown flag {flag}"),
            }
        }
        Ok(plan)
    }
}

/// What happened.
#[derive(Default)]
struct Sums {
    handshakes: u64,
    calls: u64,
    failures: Vec<String>,
    svid_rotations: usize,
    authorities: BTreeSet<String>,
    restarts: u32,
}

impl Sums {
    fn line(&self, since: Instant) -> String {
        format!(
            "{:>4} s  handshakes {}  calls {}  failures {}  SVID rotations {}  CA rotations {}  server restarts {}",
            since.elapsed().as_secs(),
            self.handshakes,
            self.calls,
            self.failures.len(),
            self.svid_rotations,
            self.authorities.len().saturating_sub(1),
            self.restarts
        )
    }

    /// Takes over what the workloads have told so far.
    fn of_workloads(&mut self, workloads: [&ScriptedWorkload; 2], known: &mut [usize; 2]) {
        self.calls = 0;
        self.svid_rotations = 0;
        for (workload, known) in workloads.into_iter().zip(known) {
            let output = workload.process.output();
            let lines = |start: &'static str| output.lines().filter(move |l| l.starts_with(start));
            let made = lines("steady ").next_back().and_then(|line| {
                let word = line
                    .split_whitespace()
                    .find_map(|w| w.strip_prefix("made="));
                word.and_then(|made| made.parse::<u64>().ok())
            });
            self.calls += made.unwrap_or_default();
            self.svid_rotations += lines("rotated ").count();
            let told: Vec<_> = lines("failure ").skip(*known).collect();
            *known += told.len();
            let named = told.iter().map(|line| format!("{}: {line}", workload.id));
            self.failures.extend(named);
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let ended = async { soak(&Plan::parse(std::env::args().skip(1))?).await }.await;
    match ended {
        Ok(sums) if sums.failures.is_empty() => ExitCode::SUCCESS,
        Ok(sums) => {
            for failure in sums.failures.iter().take(20) {
                say(failure);
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "what this program is for")]
fn say(line: &str) {
    println!("{line}");
}

async fn soak(plan: &Plan) -> anyhow::Result<Sums> {
    let node = node_program()?;
    let settings = Settings {
        server: format!("  ca_ttl = \"{CA_TTL}\"\n  agent_ttl = \"30s\""),
        agent: String::new(),
        ..Settings::default()
    };
    let mut deployment = Deployment::start(&node, settings).await?;
    deployment.write_policy(&policy())?;
    let mut one = deployment.scripted_workload("/one", &ENTRY_TTL).await?;
    let mut other = deployment.scripted_workload("/other", &ENTRY_TTL).await?;
    let this = std::env::current_exe()?;
    let prober = format!("spiffe://{TRUST_DOMAIN}/prober");
    deployment.entry(&prober, &this, &ENTRY_TTL).await?;
    // Until the node agent has heard of the entry.
    drop(deployment.attacker("/ready").await?);
    one.steady(vec![Call::new(&other)]).await?;
    other.steady(vec![Call::new(&one)]).await?;

    let start = Instant::now();
    let mut sums = Sums::default();
    let mut known = [0; 2];
    let (mut report_at, mut restart_at) = (start + REPORT, plan.restart_every.map(|e| start + e));
    while start.elapsed() < plan.lasts {
        for callee in [&one, &other] {
            match handshake(&deployment, &prober, callee).await {
                Ok(()) => sums.handshakes += 1,
                Err(error) => sums
                    .failures
                    .push(format!("handshake with {}: {error:#}", callee.id)),
            }
        }
        if restart_at.is_some_and(|at| at <= Instant::now()) {
            restart(&mut deployment).await?;
            sums.restarts += 1;
            restart_at = plan.restart_every.map(|every| Instant::now() + every);
        }
        if report_at <= Instant::now() {
            report_at += REPORT;
            sums.authorities
                .insert(active_authority(&deployment).await?);
            sums.of_workloads([&one, &other], &mut known);
            say(&sums.line(start));
        }
        sleep(HANDSHAKE_PAUSE).await;
    }
    sums.of_workloads([&one, &other], &mut known);
    say(&sums.line(start));
    ensure!(sums.calls > 0 && sums.handshakes > 0, "nothing was tried");
    Ok(sums)
}

/// The daemons' program, which lies beside this one.
fn node_program() -> anyhow::Result<String> {
    let beside: PathBuf = std::env::current_exe()?.with_file_name("node");
    ensure!(
        beside.exists(),
        "{} is missing: build the binary `node` of countersign-tests too",
        beside.display()
    );
    Ok(beside
        .to_str()
        .context("a path that is not UTF-8")?
        .to_owned())
}

fn policy() -> String {
    let id = |path: &str| format!("spiffe://{TRUST_DOMAIN}{path}");
    let mut policy = format!(
        "originate \"load\" {{\n  workloads = [\"{}\", \"{}\"]\n  new_chains = \"10000/s burst 10000\"\n}}\n",
        id("/one"),
        id("/other")
    );
    let rate = "  rate = \"10000/s burst 10000\"";
    allow(&mut policy, "there", &id("/one"), &id("/other"), rate);
    allow(&mut policy, "back", &id("/other"), &id("/one"), rate);
    policy
}

/// An SVID from the node agent, and a new connection with it. The answer, whatever it is, shows that the callee has
/// verified it too: in TLS 1.3 the caller's half of the handshake ends before that.
async fn handshake(
    deployment: &Deployment,
    prober: &str,
    callee: &ScriptedWorkload,
) -> anyhow::Result<()> {
    let attacker = Attacker::join(&deployment.endpoint(), prober).await?;
    let id = SpiffeId::parse(&callee.id)?;
    let request = Request::post("https://callee/work").body(Bytes::new())?;
    attacker.send(&id, &callee.address, request).await?;
    Ok(())
}

async fn restart(deployment: &mut Deployment) -> anyhow::Result<()> {
    let mut server = deployment.server.take().context("no server")?;
    let status = server.terminate().await?;
    ensure!(status.success(), "the server ended with {status}");
    deployment.start_server().await
}

/// The ID of the authority that signs.
async fn active_authority(deployment: &Deployment) -> anyhow::Result<String> {
    let connector = UnixConnector::new(deployment.server_socket());
    let endpoint = Endpoint::from_static("http://localhost");
    let channel: Channel = endpoint.connect_with_connector(connector).await?;
    let mut client = LocalAuthorityClient::new(channel);
    let state = client
        .get_x509_authority_state(wire::GetX509AuthorityStateRequest {})
        .await?
        .into_inner();
    Ok(state.active.context("no active authority")?.authority_id)
}
