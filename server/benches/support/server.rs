//! A real server in a process of its own, for benchmarks: over its admin socket, and as a node agent over mutual TLS.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use countersign_daemon::address_file::{self, Listening};
use countersign_identity::bundle::BundleSet;
use countersign_identity::csr::Csr;
use countersign_identity::tls::{ALPN_H2, ExpectedPeer, TlsContext, TlsVersions};
use countersign_identity::{Bundle, KeyType, PrivateKey, TrustDomain, X509Svid};
use countersign_proto::spire::api::server::agent::v1 as agent;
use countersign_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use countersign_proto::spire::api::server::bundle::v1::GetBundleRequest;
use countersign_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use countersign_proto::spire::api::types;
use countersign_transport::SystemClock;
use countersign_transport::clock::RustlsTime;
use countersign_transport::dial::{TlsConnector, UnixConnector};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// The trust domain of the server.
pub(crate) const TRUST_DOMAIN: &str = "example.org";

/// The server, with its store on the disk. Ends when dropped.
pub(crate) struct Server {
    child: Child,
    address: String,
    folder: TempDir,
}

impl Server {
    /// Starts one without rate limits, and waits until it serves.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("server.conf");
        let place = folder.path().display();
        let text = format!(
            r#"server {{
  bind_address = "127.0.0.1"
  bind_port = 0
  socket_path = "{place}/api.sock"
  trust_domain = "{TRUST_DOMAIN}"
  data_dir = "{place}/data"
  log_level = "WARN"
  ratelimit {{
    attestation = false
    signing = false
  }}
}}
plugins {{
  DataStore "sled" {{ plugin_data {{}} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#
        );
        std::fs::write(&config, text).expect("a configuration");
        let addresses = folder.path().join("addresses");
        let child = Command::new(env!("CARGO_BIN_EXE_countersign-server"))
            .arg("run")
            .arg("-config")
            .arg(&config)
            .arg("-addressFile")
            .arg(&addresses)
            .stdout(Stdio::null())
            .spawn()
            .expect("a server");
        let address = tcp_address(&addresses).await;
        Self {
            child,
            address,
            folder,
        }
    }

    /// What the system says about its process.
    pub(crate) fn process(&self) -> PathBuf {
        format!("/proc/{}", self.child.id()).into()
    }

    /// The server's memory that is in use, in MiB.
    pub(crate) fn resident(&self) -> f64 {
        let path = self.process().join("status");
        let status = std::fs::read_to_string(path).expect("the status of the server");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("a line VmRSS");
        let kib: f64 = line
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("a number");
        kib / 1024.0
    }

    /// A connection to the admin socket.
    pub(crate) async fn admin(&self) -> Channel {
        let connector = UnixConnector::new(self.folder.path().join("api.sock"));
        Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .expect("the admin socket")
    }

    /// A connection as a node agent that has just proved itself, and its ID's path.
    pub(crate) async fn agent(&self) -> (Channel, String) {
        let admin = self.admin().await;
        let bundle = BundleClient::new(admin.clone())
            .get_bundle(GetBundleRequest { output_mask: None })
            .await
            .expect("the bundle")
            .into_inner();
        let mut trusted = BundleSet::default();
        trusted.insert(Arc::new(Bundle::try_from(bundle).expect("a sound bundle")));
        let clock = SystemClock::shared();
        let tls = TlsContext::new(Arc::new(trusted), RustlsTime::shared(clock));

        let token = agent::CreateJoinTokenRequest {
            ttl: 600,
            ..Default::default()
        };
        let token = AgentClient::new(admin)
            .create_join_token(token)
            .await
            .expect("a join token")
            .into_inner();
        let key = PrivateKey::generate(KeyType::EcP256).expect("a key");
        let csr = Csr::make(&key, None).expect("a CSR");
        let svid = attest(self.dial(&tls, None).await, token.value, csr).await;
        let chain = svid.cert_chain.iter().map(|der| der.to_vec().into());
        let path = svid.id.expect("an ID").path;
        let identity = X509Svid::new(chain.collect(), key).expect("an SVID");
        (self.dial(&tls, Some(&identity)).await, path)
    }

    async fn dial(&self, tls: &TlsContext, svid: Option<&X509Svid>) -> Channel {
        let server = TrustDomain::new(TRUST_DOMAIN).expect("a name").server_id();
        let config = tls
            .client(
                svid,
                ExpectedPeer::Exactly(server),
                TlsVersions::From12,
                &[ALPN_H2],
            )
            .expect("a TLS configuration");
        let connector = TlsConnector::new(Arc::new(config), &self.address, SystemClock::shared());
        Endpoint::from_static("http://server")
            .connect_with_connector(connector)
            .await
            .expect("a connection")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nothing to save: what it acknowledged is on the disk.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn tcp_address(file: &Path) -> String {
    loop {
        if let Ok(places) = address_file::read(file) {
            let tcp = places.iter().find_map(|place| match place {
                Listening::Tcp(address) => Some(address.to_string()),
                _ => None,
            });
            return tcp.expect("a TCP address");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn attest(channel: Channel, token: String, csr: Vec<u8>) -> types::X509svid {
    let params = agent::attest_agent_request::Params {
        data: Some(types::AttestationData {
            r#type: "join_token".to_owned(),
            payload: token.into(),
        }),
        params: Some(agent::AgentX509svidParams { csr: csr.into() }),
    };
    let first = agent::AttestAgentRequest {
        step: Some(agent::attest_agent_request::Step::Params(params)),
    };
    let answer = AgentClient::new(channel)
        .attest_agent(tokio_stream::once(first))
        .await
        .expect("an attestation")
        .into_inner()
        .message()
        .await
        .expect("an answer")
        .expect("an answer");
    match answer.step {
        Some(agent::attest_agent_response::Step::Result(result)) => result.svid.expect("an SVID"),
        _ => panic!("the token was challenged"),
    }
}
