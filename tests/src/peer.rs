//! The interoperability peer in Rust: a workload over the `spiffe` and `spiffe-rustls` crates, which know nothing of this
//! project. `tests/interop/README.md` has the lines that it speaks.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use spiffe::{TrustDomain, WorkloadApiClient, X509Source};
use spiffe_rustls::{authorizer, mtls_client, mtls_server};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, server};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// The longest text that a callee may say, in bytes.
const MAX_TEXT: u64 = 4096;

struct Peer {
    client: WorkloadApiClient,
    source: X509Source,
}

/// Runs the peer until its standard input ends.
#[must_use]
pub fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let ended = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run()));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "a program of the tests")]
            {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    // The crates take the provider of the process.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let peer = Peer {
        client: WorkloadApiClient::connect_env().await?,
        source: X509Source::new().await?,
    };
    let config = mtls_server(peer.source.clone())
        .authorize(authorizer::any())
        .build()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(serve(listener, config));
    say(&format!("ready {} {port}", peer.source.svid()?.spiffe_id())).await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.split_whitespace().collect();
        match peer.answer(&words).await {
            Ok(answer) => say(&answer).await?,
            Err(error) => say(&format!("failed {error:#}").replace('\n', " ")).await?,
        }
    }
    Ok(())
}

impl Peer {
    async fn answer(&self, words: &[&str]) -> anyhow::Result<String> {
        match words {
            ["serial"] => self.serial(),
            ["call", address, callee] => self.call(address, callee).await,
            ["jwt", audience] => self.jwt(audience).await,
            ["bundle"] => self.bundle().await,
            _ => bail!("not understood"),
        }
    }

    fn serial(&self) -> anyhow::Result<String> {
        let svid = self.source.svid()?;
        let leaf = svid.cert_chain().first().context("an empty chain")?;
        let (_, certificate) = X509Certificate::from_der(leaf.as_bytes())?;
        Ok(format!("serial {:x}", certificate.serial))
    }

    async fn call(&self, address: &str, callee: &str) -> anyhow::Result<String> {
        let config: ClientConfig = mtls_client(self.source.clone())
            .authorize(authorizer::exact([callee])?)
            .build()?;
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost")?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        Ok(format!("called {}", heard(stream).await?))
    }

    async fn jwt(&self, audience: &str) -> anyhow::Result<String> {
        let svid = self.client.fetch_jwt_svid([audience], None).await?;
        let validated = self
            .client
            .validate_jwt_token(audience, svid.token())
            .await?;
        Ok(format!(
            "jwt {} {}",
            svid.spiffe_id(),
            validated.spiffe_id()
        ))
    }

    async fn bundle(&self) -> anyhow::Result<String> {
        let domain: TrustDomain = self.source.svid()?.spiffe_id().trust_domain().clone();
        let bundles = self.client.fetch_jwt_bundles().await?;
        let bundle = bundles
            .get(&domain)
            .context("no bundle of the own domain")?;
        Ok(format!("bundle {}", bundle.jwt_authorities().count()))
    }
}

async fn heard(mut stream: impl AsyncRead + Unpin) -> anyhow::Result<String> {
    let mut said = String::new();
    (&mut stream)
        .take(MAX_TEXT)
        .read_to_string(&mut said)
        .await?;
    Ok(said.trim().to_owned())
}

async fn serve(listener: TcpListener, config: ServerConfig) {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Err(error) = greet(acceptor.accept(stream).await).await {
                tracing::warn!("handshake: {error:#}");
            }
        });
    }
}

async fn greet(accepted: std::io::Result<server::TlsStream<TcpStream>>) -> anyhow::Result<()> {
    let mut stream = accepted?;
    let leaf = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .context("a caller without a certificate")?;
    let greeting = format!("you are {}\n", uri(leaf)?);
    stream.write_all(greeting.as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

/// The name of a certificate that was verified.
fn uri(der: &[u8]) -> anyhow::Result<String> {
    let (_, certificate) = X509Certificate::from_der(der)?;
    let names = certificate.subject_alternative_name()?;
    let names = names.context("a certificate without names")?;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
        .context("a certificate without a URI")
}

async fn say(line: &str) -> std::io::Result<()> {
    let mut out = tokio::io::stdout();
    out.write_all(format!("{line}\n").as_bytes()).await?;
    out.flush().await
}
