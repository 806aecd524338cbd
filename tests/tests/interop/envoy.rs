//! Envoy takes its certificate and whom it trusts from the node agent's SDS, state of the world and incremental.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_tests::deployment::{Deployment, FAST_SYNC, Settings, TRUST_DOMAIN, text};
use countersign_tests::process::{PATIENCE, Process};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::NODE;
use crate::peer::Peer;
use crate::tool;

/// What the service behind Envoy says.
const GREETING: &str = "you are behind the proxy";
/// How often Envoy is looked at while its certificate is about to change.
const LOOK: Duration = Duration::from_millis(200);

#[tokio::test]
async fn envoy_serves_with_what_sds_gives_it() -> anyhow::Result<()> {
    serves("GRPC").await
}

#[tokio::test]
async fn envoy_serves_with_what_incremental_sds_gives_it() -> anyhow::Result<()> {
    serves("DELTA_GRPC").await
}

async fn serves(api_type: &str) -> anyhow::Result<()> {
    let Some(program) = tool::here("Envoy", envoy().await)? else {
        return Ok(());
    };
    let settings = Settings {
        server: r#"  default_x509_svid_ttl = "20s""#.into(),
        agent: FAST_SYNC.into(),
        ..Settings::default()
    };
    let deployment = Deployment::start(NODE, settings).await?;
    let Some(go) = tool::go_peer(deployment.folder()).await? else {
        return Ok(());
    };
    let id = format!("spiffe://{TRUST_DOMAIN}/envoy");
    deployment.entry(&id, &program, &[]).await?;
    let (_envoy, address) = start(&deployment, &program, &id, api_type).await?;
    let mut client = Peer::start(&deployment, &go).await?;
    let call = format!("call {address} {id}");
    let greeted = format!("called {GREETING}");
    assert_eq!(client.ask(&call).await?, greeted);

    let foreign = foreign_client("spiffe://elsewhere.test/client")?;
    let refused = said(&foreign, &address).await;
    assert!(refused.is_err(), "a foreign client was served: {refused:?}");

    // Two rotations, and no request that fails.
    let mut shown = vec![certificate(&foreign, &address).await?];
    let deadline = Instant::now() + PATIENCE;
    while shown.len() < 3 {
        ensure!(Instant::now() < deadline, "the certificate did not change");
        assert_eq!(client.ask(&call).await?, greeted);
        let now = certificate(&foreign, &address).await?;
        if shown.last() != Some(&now) {
            shown.push(now);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// The executable, as the kernel will name it.
async fn envoy() -> anyhow::Result<PathBuf> {
    let name = std::env::var_os("COUNTERSIGN_ENVOY").unwrap_or("envoy".into());
    tool::finished(Command::new(&name).arg("--version")).await?;
    let path = Path::new(&name);
    if path.components().count() > 1 {
        return Ok(path.canonicalize()?);
    }
    let path = std::env::var_os("PATH").context("no PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(&name))
        .find(|program| program.is_file())
        .context("not in the PATH")?
        .canonicalize()
        .map_err(Into::into)
}

/// Envoy before a service that greets everyone, and where it listens.
async fn start(
    deployment: &Deployment,
    program: &Path,
    id: &str,
    api_type: &str,
) -> anyhow::Result<(Process, String)> {
    let service = TcpListener::bind("127.0.0.1:0").await?;
    let behind = service.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = service.accept().await {
            let _ = stream.write_all(GREETING.as_bytes()).await;
        }
    });
    // Envoy wants a port; one that was just free is as good as any on loopback.
    let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
    let file = deployment.folder().join("envoy.yaml");
    let socket = deployment.agent_socket();
    std::fs::write(&file, config(text(&socket)?, id, api_type, port, behind)?)?;
    let args = [
        "-c",
        text(&file)?,
        "--disable-hot-restart",
        "--concurrency",
        "1",
    ];
    let mut envoy = Process::start("envoy", program, &args, &[])?;
    envoy.printed("starting main dispatch loop").await?;
    let address = format!("127.0.0.1:{port}");
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(&address).await.is_err() {
        ensure!(Instant::now() < deadline, "{}", envoy.output());
        tokio::time::sleep(LOOK).await;
    }
    Ok((envoy, address))
}

fn config(
    socket: &str,
    id: &str,
    api_type: &str,
    port: u16,
    behind: u16,
) -> anyhow::Result<String> {
    let mut text = String::new();
    let sds = format!(
        "{{resource_api_version: V3, api_config_source: {{api_type: {api_type}, transport_api_version: V3, \
         grpc_services: [{{envoy_grpc: {{cluster_name: node_agent}}}}]}}}}"
    );
    write!(
        text,
        r#"node: {{id: envoy, cluster: test}}
static_resources:
  listeners:
  - name: front
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: front
          cluster: service
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_certificate_sds_secret_configs:
            - {{name: "{id}", sds_config: {sds}}}
            validation_context_sds_secret_config: {{name: ROOTCA, sds_config: {sds}}}
  clusters:
  - name: service
    type: STATIC
    load_assignment:
      cluster_name: service
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {behind}}}}}}}}}]}}]
  - name: node_agent
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: node_agent
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: "{socket}"}}}}}}}}]}}]
"#
    )?;
    Ok(text)
}

/// A client with a sound certificate of another trust domain, which takes any server for the one it wants.
fn foreign_client(id: &str) -> anyhow::Result<TlsConnector> {
    let (ca_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(ca, ca_key);
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(id.try_into()?)];
    let certificate = leaf.signed_by(&key, &issuer)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_client_auth_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )?;
    Ok(TlsConnector::from(Arc::new(config)))
}

/// What the service says to this client.
async fn said(client: &TlsConnector, address: &str) -> anyhow::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let mut stream = client
        .connect(ServerName::try_from("localhost")?, stream)
        .await?;
    let mut said = String::new();
    stream.read_to_string(&mut said).await?;
    Ok(said)
}

/// The certificate that Envoy shows.
async fn certificate(
    client: &TlsConnector,
    address: &str,
) -> anyhow::Result<CertificateDer<'static>> {
    let stream = TcpStream::connect(address).await?;
    let stream = client
        .connect(ServerName::try_from("localhost")?, stream)
        .await?;
    let shown = stream.get_ref().1.peer_certificates();
    let leaf = shown.and_then(<[_]>::first).context("no certificate")?;
    Ok(leaf.clone().into_owned())
}

/// Lets the test look at any server; whether it may be trusted is not what it is about.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
