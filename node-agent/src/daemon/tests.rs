//! The whole daemon against a server over real mTLS and a real socket, with a clock that only the tests move.

use std::path::Path;

use countersign_identity::{KeyType, SelectorSet, TrustDomain, UnixTime};
use countersign_proto::spiffe::workload::X509svidResponse;
use countersign_proto::spire::api::types;
use countersign_proto::spire::api::types::permission_denied_details::Reason;
use countersign_runtime::clock::TestClock;
use countersign_runtime::logs::LogOptions;
use tokio::task::JoinHandle;
use tonic::{Code, Status, Streaming};

use super::*;
use crate::pem;
use crate::selectors::Discover;
use crate::test_ca::{TestCa, trust_domain};
use crate::test_server::{TestServer, denied};
use crate::workload_client::WorkloadClient;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const INTERVAL: Duration = Duration::from_secs(5);
/// In real time; only a test that fails gets there.
const PATIENCE: u32 = 20_000;

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
            trust: TrustSource::File(self.path("bundle.pem")),
            join_token: token.map(|t| JoinTokenSource::Given(JoinToken::new(t).unwrap())),
            key_store: KeyStore::Disk(self.path("data")),
            socket_path: self.path("s"),
            discover: Discover::UsersOnly,
            workload_key_type: KeyType::EcP256,
            sync_interval: INTERVAL,
            logs: LogOptions::default(),
        }
    }

    fn start(&self, config: AgentConfig) -> Agent {
        let _ = std::fs::remove_file(self.path("address"));
        let (stop, socket) = (CancellationToken::new(), config.socket_path.clone());
        let running = run(
            config,
            Some(self.path("address")),
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
        let agent = self.start(self.config(token));
        self.until(|| self.path("address").exists() || agent.task.is_finished())
            .await;
        assert!(!agent.task.is_finished(), "{:?}", agent.task.await);
        agent
    }

    /// Starts, and expects that to fail.
    async fn refused(&self, config: AgentConfig) -> String {
        let agent = self.start(config);
        agent.task.await.unwrap().unwrap_err().to_string()
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

#[tokio::test]
async fn a_node_attests_and_serves_a_workload_and_needs_no_token_the_next_time() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    assert_eq!(agent.ids().await, ["spiffe://example.org/workload"]);
    assert_eq!(rig.server.state().version, env!("CARGO_PKG_VERSION"));
    let address = std::fs::read_to_string(rig.path("address")).unwrap();
    assert_eq!(address, format!("unix={}\n", rig.path("s").display()));
    agent.end().await.unwrap();
    assert!(!rig.path("s").exists());

    let again = rig.running(None).await;
    assert_eq!(again.ids().await, ["spiffe://example.org/workload"]);
    again.kill().await;
    let third = rig.running(Some("not-used")).await;
    assert_eq!(third.ids().await, ["spiffe://example.org/workload"]);
    assert_eq!(rig.calls("AttestAgent"), 1);
    third.end().await.unwrap();
}

#[tokio::test]
async fn insecure_bootstrap_believes_once_and_verifies_from_then_on() {
    let rig = Rig::new().await;
    let insecure = AgentConfig {
        trust: TrustSource::Insecure,
        ..rig.config(Some("token"))
    };
    let agent = rig.start(insecure);
    rig.until(|| rig.path("address").exists()).await;
    agent.end().await.unwrap();
    assert!(rig.agent_state()["bundle"]["x509_authorities"][0]["certificate"].is_string());
}

#[tokio::test]
async fn entries_come_change_and_go_and_streams_follow() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    let mut answers = agent.svids().await;
    assert_eq!(
        ids(&next(&mut answers).await),
        ["spiffe://example.org/workload"]
    );

    rig.register("another", &own());
    rig.sync().await;
    assert_eq!(
        ids(&next(&mut answers).await),
        [
            "spiffe://example.org/another",
            "spiffe://example.org/workload"
        ]
    );

    // A new revision is signed again.
    rig.server
        .state()
        .entries
        .get_mut("another")
        .unwrap()
        .revision_number = 1;
    let signed = rig.calls("BatchNewX509SVID");
    rig.sync().await;
    next(&mut answers).await;
    assert_eq!(rig.calls("BatchNewX509SVID"), signed + 1);

    rig.server.state().entries.clear();
    rig.sync().await;
    assert_eq!(
        answers.message().await.unwrap_err().code(),
        Code::PermissionDenied
    );
    agent.end().await.unwrap();
}

#[tokio::test]
async fn workload_svids_are_renewed_at_half_life_with_new_keys() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    let mut answers = agent.svids().await;
    let first = next(&mut answers).await;
    // 3,610 s of life: the earliest renewal is 1,614 s from now, the latest 1,976 s.
    rig.clock.advance(Duration::from_secs(1_600)).await;
    rig.sync().await;
    assert_eq!(rig.calls("BatchNewX509SVID"), 1);
    rig.clock.advance(Duration::from_secs(400)).await;
    let second = next(&mut answers).await;
    assert_eq!(ids(&first), ids(&second));
    assert_ne!(first.svids[0].x509_svid_key, second.svids[0].x509_svid_key);
    agent.end().await.unwrap();
}

#[tokio::test]
async fn more_than_a_page_of_entries_is_fetched_by_revisions_and_then_only_what_changed() {
    let rig = Rig::new().await;
    rig.server.state().page_size = 3;
    for number in 0..7 {
        rig.register(&format!("e{number}"), &own());
    }
    let agent = rig.running(Some("token")).await;
    assert_eq!(agent.ids().await.len(), 8);
    assert_eq!(
        rig.server.state().fetched,
        [
            vec!["e0", "e1", "e2"],
            vec!["e3", "e4", "e5"],
            vec!["e6", "workload"]
        ]
    );

    rig.server.state().fetched.clear();
    rig.server
        .state()
        .entries
        .get_mut("e5")
        .unwrap()
        .revision_number = 3;
    rig.server.state().entries.remove("e0");
    let mut answers = agent.svids().await;
    next(&mut answers).await;
    rig.sync().await;
    rig.until(|| rig.calls("BatchNewX509SVID") == 2).await;
    assert_eq!(rig.server.state().fetched, [vec!["e5"]]);
    assert_eq!(next(&mut answers).await.svids.len(), 7);
    agent.end().await.unwrap();
}

#[tokio::test]
async fn an_entry_that_is_not_signed_for_holds_back_its_callers_until_it_is() {
    let rig = Rig::new().await;
    rig.register("refused", &own());
    rig.server.state().refused.insert("refused".into());
    let agent = rig.running(Some("token")).await;
    let mut answers = agent.svids().await;
    rig.server.state().refused.clear();
    let (answer, ()) = tokio::join!(next(&mut answers), rig.sync());
    assert_eq!(answer.svids.len(), 2);
    agent.end().await.unwrap();
}

#[tokio::test]
async fn federated_bundles_are_fetched_and_a_missing_one_is_left_out() {
    let rig = Rig::new().await;
    let mut other = TestCa::new(NOW).bundle();
    other.trust_domain = TrustDomain::new("other.org").unwrap();
    rig.server
        .state()
        .federated
        .insert("other.org".into(), other.clone());
    rig.server
        .state()
        .entries
        .get_mut("workload")
        .unwrap()
        .federates_with = vec!["other.org".into(), "missing.org".into()];
    let agent = rig.running(Some("token")).await;
    let mut answers = agent.svids().await;
    let answer = next(&mut answers).await;
    assert_eq!(answer.federated_bundles.len(), 1);
    assert_eq!(
        answer.federated_bundles["spiffe://other.org"],
        other.x509_der()
    );
    agent.end().await.unwrap();
}

#[tokio::test]
async fn the_nodes_own_svid_is_renewed_kept_before_its_use_and_the_old_one_dropped_after() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    let first = rig.server.state().node.as_ref().unwrap().current.clone();
    rig.server
        .state()
        .failing
        .insert("SyncAuthorizedEntries", Status::unavailable("not now"));
    rig.clock.advance(Duration::from_secs(2_000)).await;
    rig.until(|| rig.calls("RenewAgent") == 1).await;
    rig.until(|| rig.agent_state()["renewed_svid"].is_object())
        .await;
    assert!(
        rig.agent_state()["svid"].is_object(),
        "both are kept until the new one was used"
    );

    rig.server.state().failing.clear();
    rig.clock.advance(Duration::from_secs(600)).await;
    rig.until(|| rig.agent_state()["renewed_svid"].is_null())
        .await;
    let current = rig.server.state().node.as_ref().unwrap().current.clone();
    assert_ne!(current, first, "the server has seen the new one");
    agent.end().await.unwrap();
    rig.running(None).await.end().await.unwrap();
}

#[tokio::test]
async fn a_node_agent_killed_before_it_used_its_renewed_svid_comes_back_without_a_token() {
    killed_while_renewing(ServerSide::Remembers).await;
}

#[tokio::test]
async fn and_so_it_does_if_the_server_has_lost_the_renewal() {
    killed_while_renewing(ServerSide::Lost).await;
}

#[derive(Debug, PartialEq)]
enum ServerSide {
    Remembers,
    Lost,
}

async fn killed_while_renewing(server_side: ServerSide) {
    {
        let rig = Rig::new().await;
        let agent = rig.running(Some("token")).await;
        rig.server
            .state()
            .failing
            .insert("SyncAuthorizedEntries", Status::unavailable("not now"));
        rig.clock.advance(Duration::from_secs(2_000)).await;
        rig.until(|| {
            rig.path("data/agent-state.json").exists()
                && rig.agent_state()["renewed_svid"].is_object()
        })
        .await;
        agent.kill().await;
        rig.server.state().failing.clear();
        assert!(
            rig.server.state().node.as_ref().unwrap().pending.is_some(),
            "not used yet"
        );
        if server_side == ServerSide::Lost {
            rig.server.state().node.as_mut().unwrap().pending = None;
        }
        let again = rig.start(rig.config(None));
        rig.until(|| rig.path("address").exists() || again.task.is_finished())
            .await;
        // The reserve: the server knows only the old one if it never wrote down that it renewed.
        assert!(
            !again.task.is_finished(),
            "{server_side:?}: {:?}",
            again.task.await
        );
        assert_eq!(again.ids().await, ["spiffe://example.org/workload"]);
        again.end().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_comes_back_is_found_again_and_streams_live_through_it() {
    let mut rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    let mut answers = agent.svids().await;
    next(&mut answers).await;
    rig.server = rig.server.restart().await;
    rig.register("another", &own());
    rig.sync().await;
    assert_eq!(next(&mut answers).await.svids.len(), 2);
    agent.end().await.unwrap();
}

#[tokio::test]
async fn a_new_bundle_reaches_workloads_and_the_disk() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    let mut answers = agent.svids().await;
    next(&mut answers).await;
    let next_authority = TestCa::new(NOW).authority().clone();
    rig.server
        .state()
        .bundle
        .x509_authorities
        .push(next_authority);
    rig.server.state().bundle.sequence_number = 2;
    let expected = rig.server.state().bundle.x509_der();
    rig.sync().await;
    assert_eq!(next(&mut answers).await.svids[0].bundle, expected);
    agent.end().await.unwrap();
    assert_eq!(rig.agent_state()["bundle"]["sequence_number"], 2);
    assert_eq!(
        rig.agent_state()["bundle"]["x509_authorities"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test]
async fn a_node_that_is_banned_or_not_accepted_forgets_its_svid_and_ends_with_a_message() {
    let rig = Rig::new().await;
    for (reason, says) in [
        (Reason::AgentBanned, "banned this node"),
        (Reason::AgentExpired, "expired by the server's clock"),
        (Reason::AgentNotAttested, "evicted"),
        (Reason::AgentNotActive, "a newer SVID"),
        (Reason::AgentMustReattest, "attest again"),
    ] {
        rig.server.state().failing.clear();
        rig.server.state().tokens.insert("next".into());
        let agent = rig.running(Some("next")).await;
        rig.server
            .state()
            .failing
            .insert("SyncAuthorizedEntries", denied(reason));
        rig.clock.advance(INTERVAL).await;
        let error = agent.task.await.unwrap().unwrap_err();
        gone(&agent.socket, &agent.lock).await;
        assert!(error.to_string().contains(says), "{reason:?}: {error}");
        assert!(error.to_string().contains("join token"), "{error}");
        assert!(rig.agent_state()["svid"].is_null(), "{reason:?}");
    }
}

#[tokio::test]
async fn a_refusal_without_a_reason_is_a_passing_fault() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    rig.server
        .state()
        .failing
        .insert("SyncAuthorizedEntries", Status::permission_denied("policy"));
    rig.clock.advance(INTERVAL).await;
    rig.until(|| rig.calls("SyncAuthorizedEntries") == 2).await;
    rig.server.state().failing.clear();
    rig.register("another", &own());
    // When the next try comes depends on the jitter.
    while rig.calls("BatchNewX509SVID") < 2 {
        rig.clock.advance(Duration::from_secs(1)).await;
        pause().await;
    }
    assert_eq!(agent.ids().await.len(), 2);
    agent.end().await.unwrap();
}

#[tokio::test]
async fn a_node_refused_at_the_start_forgets_its_svid_and_fails_that_start() {
    let rig = Rig::new().await;
    rig.running(Some("token")).await.end().await.unwrap();
    rig.server.state().node = None;
    let error = rig.refused(rig.config(None)).await;
    assert!(
        error.contains("evicted") && error.contains("join token"),
        "{error}"
    );
    assert!(rig.agent_state()["svid"].is_null());
    let error = rig.refused(rig.config(None)).await;
    assert!(error.contains("no join token"), "{error}");
    rig.server.state().tokens.insert("second".into());
    rig.running(Some("second")).await.end().await.unwrap();
}

#[tokio::test]
async fn tokens_that_are_used_expired_or_missing_end_the_start_with_what_to_do() {
    let rig = Rig::new().await;
    for token in [Some("unknown"), Some("expired"), None] {
        let error = rig.refused(rig.config(token)).await;
        assert!(
            error.contains("countersign-server token generate"),
            "{token:?}: {error}"
        );
        assert!(
            !error.contains("unknown"),
            "the token itself is not told: {error}"
        );
    }
    let file = AgentConfig {
        join_token: Some(JoinTokenSource::File(rig.path("no-token"))),
        ..rig.config(None)
    };
    assert!(rig.refused(file).await.contains("no-token"));
}

#[tokio::test]
async fn a_wrong_trust_bundle_ends_the_start_at_once_and_keeps_the_token() {
    let rig = Rig::new().await;
    let wrong = pem::certificates([TestCa::new(NOW).authority().der()]);
    std::fs::write(rig.path("bundle.pem"), wrong).unwrap();
    let error = rig.refused(rig.config(Some("token"))).await;
    assert!(
        error.contains("trust bundle") && error.contains("countersign-server bundle show"),
        "{error}"
    );
    assert_eq!(rig.calls("AttestAgent"), 0);
    assert!(rig.server.state().tokens.contains("token"));
}

#[tokio::test]
async fn a_clock_more_than_a_minute_off_is_told_and_costs_no_second_token() {
    let rig = Rig::new().await;
    rig.server.state().ahead = Duration::from_secs(100);
    let error = rig.refused(rig.config(Some("token"))).await;
    assert!(
        error.contains("this machine's clock is 100 s behind the server's"),
        "{error}"
    );
    // The clock was set right: the SVID that was issued then is used.
    rig.server.state().ahead = Duration::ZERO;
    rig.clock.set(NOW.after(Duration::from_secs(100)));
    rig.running(None).await.end().await.unwrap();
}

#[tokio::test]
async fn an_svid_on_disk_that_is_from_the_future_tells_of_the_clock() {
    let rig = Rig::new().await;
    rig.running(Some("token")).await.end().await.unwrap();
    rig.clock.set(NOW.before(Duration::from_secs(120)));
    let error = rig.refused(rig.config(None)).await;
    assert!(
        error.contains("by this machine's clock: set the clock"),
        "{error}"
    );
}

#[tokio::test]
async fn connections_that_the_server_lets_go_regularly_disturb_nothing() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    let mut answers = agent.svids().await;
    next(&mut answers).await;
    // Well beyond the three minutes of a connection's life, sync by sync.
    for number in 0..50 {
        rig.register(&format!("e{number}"), &own());
        rig.sync().await;
        assert_eq!(
            next(&mut answers).await.svids.len(),
            number + 2,
            "sync {number}"
        );
    }
    assert!(
        rig.server.state().connections.len() > 1,
        "the server never let a connection go"
    );
    agent.end().await.unwrap();
}

#[tokio::test]
async fn a_server_whose_certificate_is_not_valid_by_this_clock_is_a_matter_of_clocks() {
    let rig = Rig::new().await;
    rig.clock.set(NOW.before(Duration::from_secs(3600)));
    let agent = rig.start(rig.config(Some("token")));
    // Tried again for a minute, since clocks are often set just after the start.
    for _ in 0..PATIENCE {
        if agent.task.is_finished() {
            break;
        }
        rig.clock.advance(Duration::from_secs(1)).await;
        pause().await;
    }
    let error = agent.task.await.unwrap().unwrap_err().to_string();
    assert!(
        error.contains("valid from") && error.contains("clock"),
        "{error}"
    );
    assert!(rig.server.state().tokens.contains("token"));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_for_a_minute_and_then_named() {
    let rig = Rig::new().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let agent = rig.start(AgentConfig {
        server: nobody.to_string(),
        ..rig.config(Some("token"))
    });
    let mut seconds = 0;
    while !agent.task.is_finished() {
        rig.clock.advance(Duration::from_secs(1)).await;
        seconds += 1;
        pause().await;
    }
    let error = agent.task.await.unwrap().unwrap_err().to_string();
    assert!(error.contains(&nobody.to_string()), "{error}");
    assert!(seconds > 30, "gave up after {seconds} s");
}

#[tokio::test]
async fn a_second_node_agent_is_kept_from_the_socket_and_from_the_data() {
    let rig = Rig::new().await;
    let first = rig.running(Some("token")).await;
    let same_socket = AgentConfig {
        key_store: KeyStore::Disk(rig.path("other")),
        ..rig.config(Some("x"))
    };
    let error = rig.refused(same_socket).await;
    assert!(error.contains("already serves the socket"), "{error}");
    let same_data = AgentConfig {
        socket_path: rig.path("other.sock"),
        ..rig.config(Some("x"))
    };
    let error = rig.refused(same_data).await;
    assert!(error.contains("in use by another node agent"), "{error}");
    assert_eq!(rig.calls("AttestAgent"), 1, "no token was spent on it");
    assert_eq!(first.ids().await.len(), 1, "the first one is not disturbed");
    first.end().await.unwrap();
}

#[tokio::test]
async fn a_socket_path_that_is_too_long_is_refused_before_the_token_is_spent() {
    let rig = Rig::new().await;
    let long = rig.path(&"x".repeat(120));
    let error = rig
        .refused(AgentConfig {
            socket_path: long,
            ..rig.config(Some("token"))
        })
        .await;
    assert!(error.contains("choose a shorter one"), "{error}");
    let file = rig.path("file");
    std::fs::write(&file, "").unwrap();
    let unwritable = AgentConfig {
        key_store: KeyStore::Disk(file.join("data")),
        ..rig.config(Some("token"))
    };
    assert!(rig.refused(unwritable).await.contains("data_dir"));
    assert!(rig.server.state().tokens.contains("token"));
}

#[tokio::test]
async fn with_keys_in_memory_nothing_is_written() {
    let rig = Rig::new().await;
    let agent = rig.start(AgentConfig {
        key_store: KeyStore::Memory,
        ..rig.config(Some("token"))
    });
    rig.until(|| rig.path("address").exists()).await;
    assert_eq!(agent.ids().await.len(), 1);
    agent.end().await.unwrap();
    assert!(!Path::new(&rig.path("data")).exists());
}

#[tokio::test]
async fn an_svid_that_ran_out_while_the_server_was_away_ends_the_node_agent() {
    let rig = Rig::new().await;
    let agent = rig.running(Some("token")).await;
    rig.server
        .state()
        .failing
        .insert("RenewAgent", Status::unavailable("not now"));
    rig.server
        .state()
        .failing
        .insert("SyncAuthorizedEntries", Status::unavailable("not now"));
    for _ in 0..PATIENCE {
        if agent.task.is_finished() {
            break;
        }
        rig.clock.advance(Duration::from_secs(60)).await;
        pause().await;
    }
    let error = agent.task.await.unwrap().unwrap_err().to_string();
    assert!(
        error.contains("expired at") && error.contains("token generate"),
        "{error}"
    );
    let late = rig.refused(rig.config(None)).await;
    assert!(
        late.contains("expired at") && late.contains("this machine's clock"),
        "{late}"
    );
}
