//! The whole daemon against a server over real mTLS and a real socket, with a clock that only the tests move.

mod faults;
mod life;
mod reattest;
mod restart;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use countersign_daemon::logs::{Level, Levels, LogOptions};
use countersign_daemon::operator_endpoints::OperatorEndpoints;
use countersign_identity::tls::KeyExchange;
use countersign_identity::{KeyType, SelectorSet, TrustDomain, UnixTime};
use countersign_proto::spiffe::workload::X509svidResponse;
use countersign_proto::spire::api::types;
use countersign_proto::spire::api::types::permission_denied_details::Reason;
use countersign_transport::clock::TestClock;
use countersign_transport::error::Chain;
use tokio::task::JoinHandle;
use tonic::{Code, Status, Streaming};

use super::*;
use crate::config::KeyStore;
use crate::node_attestor::{
    BundleFormat, JoinToken, JoinTokenAttestor, JoinTokenSource, NoProof, NodeAttestor, Proof,
    Rebootstrap, Trust, TrustSource,
};
use crate::pem;
use crate::rotation::Rotation;
use crate::sync::CacheConfig;
use crate::test_ca::{TestCa, trust_domain};
use crate::test_server::{TestServer, denied};
use crate::workload_attestor::{AttestorConfig, Discover};
use crate::workload_client::WorkloadClient;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const INTERVAL: Duration = Duration::from_secs(5);
/// In real time; only a test that fails gets there.
const PATIENCE: u32 = 20_000;
/// How often the clock is moved until something comes of it.
const MOVES: u32 = 5;

struct Rig {
    directory: tempfile::TempDir,
    clock: TestClock,
    server: TestServer,
}

struct Agent {
    stop: CancellationToken,
    task: JoinHandle<Result<(), AgentError>>,
    socket: PathBuf,
    lock: PathBuf,
}

impl Rig {
    async fn new() -> Self {
        let clock = TestClock::start(NOW);
        let server = TestServer::start(&clock).await;
        let directory = tempfile::tempdir().unwrap();
        let rig = Self {
            directory,
            clock,
            server,
        };
        let bundle = pem::certificates([rig.server.state().ca.authority().der()]);
        std::fs::write(rig.path("bundle.pem"), bundle).unwrap();
        rig.register("workload", &own());
        rig
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self, token: Option<&str>) -> AgentConfig {
        AgentConfig {
            trust_domain: trust_domain(),
            server: self.server.address.to_string(),
            key_exchange: KeyExchange::default(),
            trust: self.trust(Rebootstrap::Never),
            node_attestor: Arc::new(JoinTokenAttestor {
                source: token.map(|t| JoinTokenSource::Given(JoinToken::new(t).unwrap())),
            }),
            key_store: KeyStore::Disk(self.path("data")),
            svids_on_disk: true,
            cache: CacheConfig {
                max_svids: 1000,
                rotation: Rotation::default(),
            },
            socket_path: self.path("s"),
            admin_socket_path: None,
            api: crate::config::ApiConfig::default(),
            jwt_svids: crate::limits::JWT_SVIDS,
            workload_attestors: vec![AttestorConfig::Unix(Discover::UsersOnly)],
            workload_key_type: KeyType::EcP256,
            sync_interval: INTERVAL,
            logs: LogOptions::default(),
            operators: OperatorEndpoints::default(),
        }
    }

    fn trust(&self, rebootstrap: Rebootstrap) -> Trust {
        Trust {
            source: TrustSource::File(self.path("bundle.pem")),
            format: BundleFormat::Pem,
            rebootstrap,
        }
    }

    /// A node that may attest again.
    fn reattestable(&self) -> AgentConfig {
        AgentConfig {
            node_attestor: Arc::new(Again),
            ..self.config(None)
        }
    }

    fn start(&self, config: AgentConfig) -> Agent {
        let _ = std::fs::remove_file(self.path("address"));
        let (stop, socket) = (CancellationToken::new(), config.socket_path.clone());
        let running = run(
            config,
            Some(self.path("address")),
            Levels::detached(Level::Info),
            None,
            self.clock.shared(),
            stop.clone(),
        );
        Agent {
            stop,
            task: tokio::spawn(running),
            socket,
            lock: self.path("data/agent.lock"),
        }
    }

    /// Starts, and waits until workloads are answered.
    async fn running(&self, token: Option<&str>) -> Agent {
        self.running_with(self.config(token)).await
    }

    async fn running_with(&self, config: AgentConfig) -> Agent {
        let agent = self.start(config);
        self.until(|| self.path("address").exists() || agent.task.is_finished())
            .await;
        assert!(!agent.task.is_finished(), "{:?}", agent.task.await);
        agent
    }

    /// Starts, and expects that to fail.
    async fn refused(&self, config: AgentConfig) -> String {
        let agent = self.start(config);
        Chain(&agent.task.await.unwrap().unwrap_err()).to_string()
    }

    /// Lets everything run until this holds, with the clock standing still.
    async fn until(&self, holds: impl Fn() -> bool) {
        for _ in 0..PATIENCE {
            if holds() {
                return;
            }
            pause().await;
        }
        panic!("it never came to that");
    }

    /// As [`Rig::until`], with the clock moved by `span` whenever nothing has come of it for a while: whoever was still busy
    /// at one move begins to wait only after it.
    async fn as_time_passes(&self, span: Duration, holds: impl Fn() -> bool) {
        for _ in 0..MOVES {
            self.clock.advance(span).await;
            for _ in 0..PATIENCE / MOVES {
                if holds() {
                    return;
                }
                pause().await;
            }
        }
        panic!("it never came to that");
    }

    fn calls(&self, method: &'static str) -> usize {
        self.server
            .state()
            .calls
            .get(method)
            .copied()
            .unwrap_or_default()
    }

    /// Moves the clock by one interval, and waits for the sync that follows.
    async fn sync(&self) {
        let before = self.calls("GetBundle");
        self.clock.advance(INTERVAL).await;
        self.until(|| self.calls("GetBundle") > before).await;
    }

    fn register(&self, id: &str, selector: &SelectorSet) {
        let entry = types::Entry {
            id: id.into(),
            spiffe_id: Some(types::Spiffeid {
                trust_domain: "example.org".into(),
                path: format!("/{id}"),
            }),
            selectors: countersign_proto::convert::selector::to_wire(selector),
            created_at: 7,
            ..Default::default()
        };
        self.server.state().entries.insert(id.into(), entry);
    }

    fn agent_state(&self) -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(self.path("data/agent-state.json")).unwrap())
            .unwrap()
    }
}

/// Attests as often as it is asked, with a challenge.
#[derive(Debug)]
struct Again;

impl NodeAttestor for Again {
    fn kind(&self) -> &'static str {
        "x509pop"
    }

    fn prove(&self) -> Result<Box<dyn Proof>, NoProof> {
        Ok(Box::new(Self))
    }
}

impl Proof for Again {
    fn payload(&self) -> Bytes {
        Bytes::from_static(b"certificate")
    }

    fn answer(&self, challenge: &[u8]) -> Result<Bytes, NoProof> {
        assert_eq!(challenge, b"challenge");
        Ok(Bytes::from_static(b"answer"))
    }
}

impl Agent {
    async fn svids(&self) -> Streaming<X509svidResponse> {
        WorkloadClient::connect(&self.socket)
            .await
            .unwrap()
            .x509_svids()
            .await
            .unwrap()
    }

    async fn ids(&self) -> Vec<String> {
        ids(&next(&mut self.svids().await).await)
    }

    async fn end(self) -> Result<(), AgentError> {
        self.stop.cancel();
        let result = self.task.await.unwrap();
        gone(&self.socket, &self.lock).await;
        result
    }

    /// As kill -9 does: nothing gets to finish anything.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
        gone(&self.socket, &self.lock).await;
    }
}

/// Within one process the end of a daemon takes a moment: threads that write to the disk can't be stopped, and children
/// that other tests are starting hold our locks from their fork to their exec.
async fn gone(socket: &Path, lock: &Path) {
    let free = |path: &Path| std::fs::File::open(path).map_or(true, |file| file.try_lock().is_ok());
    let socket_lock = socket.with_file_name("s.lock");
    while socket.exists() || !free(lock) || !free(&socket_lock) {
        pause().await;
    }
}

/// Lets other tasks, threads and the network go on for a moment of real time, in which the clock stands still.
async fn pause() {
    let moment = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1)));
    moment.await.unwrap();
}

async fn next(answers: &mut Streaming<X509svidResponse>) -> X509svidResponse {
    answers.message().await.unwrap().unwrap()
}

fn ids(answer: &X509svidResponse) -> Vec<String> {
    answer
        .svids
        .iter()
        .map(|svid| svid.spiffe_id.clone())
        .collect()
}

/// A selector that holds for this test process.
fn own() -> SelectorSet {
    let text = format!("unix:uid:{}", nix::unistd::geteuid());
    std::iter::once(countersign_identity::Selector::parse(&text).unwrap()).collect()
}
