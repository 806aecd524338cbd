//! The command line against a real server in this process: what people and scripts read.

use std::path::PathBuf;
use std::sync::Arc;

use countersign_daemon::address_file::Listening;
use countersign_daemon::cli::Captured;
use countersign_daemon::logs::{Level, Levels};
use countersign_identity::SpiffeId;
use countersign_identity::bundle::BundleSet;
use countersign_identity::csr::Csr;
use countersign_identity::key::{KeyType, PrivateKey};
use countersign_identity::tls::{ALPN_H2, TlsContext, TlsVersions};
use countersign_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use countersign_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, attest_agent_request, attest_agent_response,
};
use countersign_proto::spire::api::types;
use countersign_transport::SystemClock;
use countersign_transport::clock::RustlsTime;
use countersign_transport::dial::TlsConnector;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::{Overrides, ServerConfig};
use crate::daemon;

mod agent;
mod apply;
mod authority;
mod entry;

/// A server with everything in memory, and its admin socket.
struct Server {
    socket: PathBuf,
    places: Vec<Listening>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    _folder: TempDir,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        let text = format!(
            r#"
server {{
  bind_address = "127.0.0.1"
  bind_port = 0
  trust_domain = "example.org"
  socket_path = "{}"
}}
plugins {{
  DataStore "memory" {{ plugin_data {{ }} }}
  NodeAttestor "join_token" {{ plugin_data {{ }} }}
  KeyManager "memory" {{ plugin_data {{ }} }}
}}
"#,
            socket.display()
        );
        let (config, _) = ServerConfig::parse("server.conf", &text, &Overrides::default()).unwrap();
        let bound = daemon::build(
            &config,
            Levels::detached(Level::Info),
            None,
            SystemClock::shared(),
        )
        .await
        .unwrap();
        let places = bound.listening();
        let stop = CancellationToken::new();
        let serving = tokio::spawn({
            let stop = stop.clone();
            async move { bound.serve(stop, None).await.unwrap() }
        });
        Self {
            socket,
            places,
            stop,
            serving,
            _folder: folder,
        }
    }

    /// Runs a verb, with flags as SPIRE writes them.
    async fn run(&self, verb: &[&str]) -> Answer {
        let socket = self.socket.to_str().unwrap();
        run(verb.iter().copied().chain(["-socketPath", socket])).await
    }

    /// Attests a node agent with this token, over TLS, and returns its ID.
    async fn attest(&self, token: &str) -> String {
        let Some(Listening::Tcp(address)) = self.places.first() else {
            panic!("{:?}", self.places)
        };
        let clock = SystemClock::shared();
        let time = RustlsTime::shared(clock.clone());
        let tls = TlsContext::new(Arc::new(BundleSet::default()), time);
        let server = SpiffeId::parse("spiffe://example.org/spire/server").unwrap();
        let tls = tls
            .insecure_client(server, TlsVersions::From12, &[ALPN_H2])
            .unwrap();
        let connector = TlsConnector::new(Arc::new(tls), &address.to_string(), clock);
        let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(connector).await.unwrap();

        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let params = attest_agent_request::Params {
            data: Some(types::AttestationData {
                r#type: "join_token".into(),
                payload: token.to_owned().into(),
            }),
            params: Some(AgentX509svidParams {
                csr: Csr::make(&key, None).unwrap().into(),
            }),
        };
        let request = AttestAgentRequest {
            step: Some(attest_agent_request::Step::Params(params)),
        };
        let mut client = AgentClient::new(channel);
        let answers = client
            .attest_agent(tokio_stream::iter([request]))
            .await
            .unwrap();
        let answer = answers.into_inner().message().await.unwrap().unwrap();
        let Some(attest_agent_response::Step::Result(result)) = answer.step else {
            panic!("{answer:?}")
        };
        let id = result.svid.unwrap().id.unwrap();
        format!("spiffe://{}{}", id.trust_domain, id.path)
    }

    async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
    }
}

/// What a verb printed, and how it ended.
struct Answer {
    exit: ExitCode,
    printed: Captured,
}

impl Answer {
    fn out(&self) -> String {
        self.printed.out()
    }

    fn err(&self) -> String {
        self.printed.err()
    }

    /// The output of a verb that went well.
    #[track_caller]
    fn good(&self) -> String {
        assert_eq!(
            (self.exit, self.err().as_str()),
            (ExitCode::SUCCESS, ""),
            "{}",
            self.out()
        );
        self.out()
    }

    /// The words of a verb that failed.
    #[track_caller]
    fn failed(&self) -> String {
        assert_eq!(self.exit, ExitCode::FAILURE, "{}", self.out());
        self.err()
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.good()).unwrap()
    }
}

async fn run<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Answer {
    let arguments: Vec<OsString> = std::iter::once("countersign-server")
        .chain(arguments)
        .map(Into::into)
        .collect();
    tokio::task::spawn_blocking(move || {
        let (mut printer, printed) = Printer::captured();
        let exit = execute(arguments, &mut printer);
        Answer { exit, printed }
    })
    .await
    .unwrap()
}

const CREATE: [&str; 12] = [
    "entry",
    "create",
    "-parentID",
    "spiffe://example.org/node",
    "-spiffeID",
    "spiffe://example.org/planner",
    "-selector",
    "unix:uid:1000",
    "-selector",
    "unix:path:/usr/bin/planner",
    "-entryID",
    "planner",
];

#[tokio::test]
async fn a_server_that_is_well_says_so() {
    let server = Server::start().await;
    assert_eq!(
        server.run(&["healthcheck"]).await.good(),
        "Server is healthy.\n"
    );
    let verbose = server
        .run(&["healthcheck", "-verbose", "-shallow"])
        .await
        .good();
    assert_eq!(verbose, "Checking server health...\nServer is healthy.\n");
    assert_eq!(
        server.run(&["healthcheck", "-output", "json"]).await.json()["status"],
        "SERVING"
    );
    server.stop().await;
}

#[tokio::test]
async fn the_log_level_is_shown_set_and_reset() {
    let server = Server::start().await;
    let shown = |level: &str| format!("Logger Level : {level}\nLaunch Level : info\n\n");
    assert_eq!(server.run(&["logger", "get"]).await.good(), shown("info"));
    for (asked, name) in [("WARN", "warning"), ("fatal", "fatal"), ("trace", "trace")] {
        let set = server.run(&["logger", "set", "-level", asked]).await;
        assert_eq!(set.good(), shown(name));
    }
    let json = server.run(&["logger", "get", "-output", "json"]).await;
    assert_eq!(
        json.good(),
        "{\"current_level\":\"TRACE\",\"launch_level\":\"INFO\"}\n"
    );
    assert_eq!(server.run(&["logger", "reset"]).await.good(), shown("info"));
    let loud = server.run(&["logger", "set", "-level", "loud"]).await;
    assert_eq!(
        loud.failed(),
        "Error: the value \"loud\" is not a valid setting\n"
    );
    let none = server.run(&["logger", "set"]).await;
    assert_eq!(none.failed(), "Error: a value (-level) must be set\n");
    server.stop().await;
}

#[tokio::test]
async fn the_server_tells_about_itself() {
    let server = Server::start().await;
    let json = server.run(&["debug", "getinfo", "-output", "json"]).await;
    let info = json.json();
    assert_eq!(info["federated_bundles_count"], 1);
    let chain = info["svid_chain"].as_array().unwrap();
    assert_eq!(chain.len(), 2, "the leaf and the root: {info}");
    assert_eq!(chain[0]["id"]["path"], "/spire/server");
    assert_eq!(chain[0]["subject"], "O=SPIRE,C=US");
    assert_eq!(chain[1]["id"]["path"], "");
    let root = chain[1]["subject"].as_str().unwrap();
    assert!(root.starts_with("SERIALNUMBER=") && root.ends_with(",O=SPIFFE,C=US"));
    let text = server.run(&["debug", "getinfo"]).await.good();
    let start = "Server Debug Info:\n  Uptime:                  0s\n  Registered Agents:       0\n  \
                 Registration Entries:    0\n  Federated Bundles:       1\n  SVID Chain:\n    \
                 [0] SPIFFE ID:  spiffe://example.org/spire/server\n        Subject:    O=SPIRE,C=US\n        \
                 Expires At: 20";
    assert!(text.starts_with(start), "{text}");
    assert!(
        text.contains("Z\n    [1] SPIFFE ID:  spiffe://example.org\n"),
        "{text}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_token_is_printed_as_spire_prints_it() {
    let server = Server::start().await;
    let named = server
        .run(&[
            "token",
            "generate",
            "-spiffeID",
            "spiffe://example.org/node",
        ])
        .await
        .good();
    let token = named
        .strip_prefix("Token: ")
        .and_then(|rest| rest.strip_suffix('\n'))
        .unwrap();
    assert_eq!(token.len(), 36, "{named}");
    let nameless = server.run(&["token", "generate"]).await.good();
    assert!(
        nameless.ends_with("\nWarning: Missing SPIFFE ID.\n"),
        "{nameless}"
    );
    let json = server
        .run(&["token", "generate", "-ttl", "60", "-output", "json"])
        .await
        .json();
    assert!(
        json["value"].is_string() && json["expires_at"].is_string(),
        "{json}"
    );

    let refused = server
        .run(&["token", "generate", "-ttl", "0"])
        .await
        .failed();
    assert_eq!(
        refused,
        "Error: rpc error: code = InvalidArgument desc = ttl is required, you must provide one\n"
    );
    let refused = server
        .run(&["token", "generate", "-spiffeID", "node"])
        .await
        .failed();
    assert!(
        refused.starts_with("Error: \"node\" is not a SPIFFE ID: scheme is missing"),
        "{refused}"
    );
    server.stop().await;
}

#[tokio::test]
async fn flags_that_make_no_sense_are_refused_before_anything_is_sent() {
    let nowhere = ["-socketPath", "/nonexistent/api.sock"];
    let id = "spiffe://example.org/a";
    for (verb, message) in [
        (
            &["entry", "create", "-spiffeID", id, "-parentID", id][..],
            "at least one selector is required",
        ),
        (
            &["entry", "create", "-spiffeID", id, "-selector", "a:b"],
            "a parent ID is required if the node flag is not set",
        ),
        (
            &["entry", "create", "-parentID", id, "-selector", "a:b"],
            "a SPIFFE ID is required",
        ),
        (
            &[
                "entry",
                "create",
                "-spiffeID",
                id,
                "-parentID",
                id,
                "-selector",
                "ab",
            ],
            "must be formatted as type:value",
        ),
        (
            &[
                "entry",
                "create",
                "-spiffeID",
                id,
                "-parentID",
                id,
                "-selector",
                "a:b",
                "-x509SVIDTTL=-1",
            ],
            "a positive x509-SVID TTL is required",
        ),
        (
            &[
                "entry",
                "create",
                "-node",
                "-spiffeID",
                id,
                "-selector",
                "a:b",
                "-federatesWith",
                "spiffe://other",
            ],
            "node entries can not federate",
        ),
        (
            &[
                "entry",
                "update",
                "-spiffeID",
                id,
                "-parentID",
                id,
                "-selector",
                "a:b",
            ],
            "entry ID is required",
        ),
        (&["entry", "delete"], "an entry ID is required"),
        (
            &["entry", "show", "-entryID", "e", "-spiffeID", id],
            "the -entryID flag can't be combined with others",
        ),
        (&["agent", "show"], "a SPIFFE ID is required"),
        (&["agent", "evict"], "a SPIFFE ID is required"),
        (&["agent", "ban"], "a SPIFFE ID is required"),
        (
            &["agent", "list", "-expiresBefore", "tomorrow"],
            "date is not valid",
        ),
    ] {
        let answer = run(verb.iter().copied().chain(nowhere)).await.failed();
        assert!(
            answer.starts_with("Error: ") && answer.contains(message),
            "{verb:?}: {answer}"
        );
    }
    let dated = [
        "agent",
        "list",
        "-expiresBefore",
        "2026-01-02 15:04:05 -0700 -07",
    ];
    let answer = run(dated.iter().copied().chain(nowhere)).await.failed();
    assert!(answer.contains("no such socket"), "{answer}");
}

#[tokio::test]
async fn the_bundle_is_printed_in_pem_and_as_json() {
    let server = Server::start().await;
    let pem = server
        .run(&["bundle", "show", "-format", "pem"])
        .await
        .good();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----\n"), "{pem}");
    assert!(pem.ends_with("-----END CERTIFICATE-----\n"), "{pem}");
    assert!(pem.lines().all(|line| line.len() <= 64));
    let document = server.run(&["bundle", "show", "-format", "spiffe"]).await;
    assert_eq!(document.json()["keys"][0]["use"], "x509-svid");
    let json = server
        .run(&["bundle", "show", "-output", "json"])
        .await
        .json();
    assert_eq!(json["trust_domain"], "example.org");
    assert_eq!(json["x509_authorities"].as_array().unwrap().len(), 1);
    // One change for each of the two authorities.
    assert_eq!(json["sequence_number"], "2");
    server.stop().await;
}

#[tokio::test]
async fn an_absent_server_is_reported_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.sock");
    let stale = folder.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    for (socket, message) in [
        (missing, "no such socket. Is the server running?"),
        (stale, "no process listens on the socket"),
    ] {
        let answer = run(["entry", "show", "-socketPath", socket.to_str().unwrap()])
            .await
            .failed();
        assert!(
            answer.contains(message) && answer.contains(socket.to_str().unwrap()),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn upstream_authorities_are_named_by_key_and_must_exist() {
    let server = Server::start().await;
    for (verb, message) in [("taint", "could not taint"), ("revoke", "could not revoke")] {
        let missing = server.run(&["upstreamauthority", verb]).await.failed();
        assert_eq!(
            missing,
            "Error: the Subject Key ID of the X.509 upstream authority is required\n"
        );
        let alone = server
            .run(&["upstreamauthority", verb, "-subjectKeyID", "ab"])
            .await
            .failed();
        assert!(
            alone.starts_with(&format!(
                "Error: {message} X.509 upstream authority: rpc error: code = "
            )),
            "{alone}"
        );
    }
    server.stop().await;
}

/// The verbs below this one that do something, each as its words.
fn leaves(verb: &clap::Command, words: &[String]) -> Vec<Vec<String>> {
    if verb.get_subcommands().next().is_none() {
        return vec![words.to_vec()];
    }
    verb.get_subcommands()
        .flat_map(|inner| leaves(inner, &[words, &[inner.get_name().to_owned()]].concat()))
        .collect()
}

#[tokio::test]
async fn help_teaches_with_an_example() {
    let verbs = leaves(&command(), &[]);
    assert!(verbs.len() > 20, "{verbs:?}");
    for verb in verbs {
        let help = run(verb.iter().map(String::as_str).chain(["-h"]))
            .await
            .good();
        let example = format!("countersign-server {}", verb.join(" "));
        assert!(help.contains(&example), "{verb:?}: {help}");
    }
}

#[tokio::test]
async fn a_configuration_is_validated_without_starting_anything() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.conf");
    let text = "server { trust_domain = \"example.org\" }\nplugins {\n  DataStore \"memory\" { plugin_data { } }\n  \
                KeyManager \"memory\" { plugin_data { } }\n}\n";
    std::fs::write(&good, text).unwrap();
    let bad = folder.path().join("bad.conf");
    std::fs::write(&bad, text.replace("trust_domain", "trust_domian")).unwrap();
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());

    let valid = run(["validate", "-config", good]).await.good();
    assert_eq!(valid, "SPIRE server configuration file is valid.\n");
    assert_eq!(
        run(["validate", "-config", good, "-output", "json"])
            .await
            .json()["valid"],
        true
    );
    for (verb, exit) in [("validate", ExitCode::FAILURE), ("run", ExitCode::from(64))] {
        let refused = run([verb, "-config", bad]).await;
        assert_eq!(refused.exit, exit);
        assert!(
            refused
                .err()
                .contains("bad.conf:1:10: unknown key \"trust_domian\""),
            "{}",
            refused.err()
        );
        let missing = run([verb, "-config", "/nonexistent.conf"]).await;
        assert_eq!(missing.exit, exit);
        assert!(
            missing.err().contains("/nonexistent.conf"),
            "{}",
            missing.err()
        );
    }
}
