//! The connection to the collector, and logging when it fails.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::error::OtlpError;
use countersign_transport::error::{BoxError, Chain};

/// The port of OTLP over gRPC.
const PORT: u16 = 4317;
/// Timeout of connecting, including TLS.
const CONNECT: Duration = Duration::from_secs(5);
/// Timeout of sending one batch.
const EXPORT: Duration = Duration::from_secs(10);

/// The byte stream, with or without TLS.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection that is opened on first use, and again after it broke.
pub(super) fn channel(endpoint: &Uri) -> Result<Channel, OtlpError> {
    let host = endpoint.host().unwrap_or_default();
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let port = endpoint.port_u16().unwrap_or(PORT);
    let tls = match endpoint.scheme_str() {
        Some("https") => Some(tls(&host).map_err(|error| OtlpError::Tls {
            endpoint: endpoint.clone(),
            reason: Chain(&*error).to_string(),
        })?),
        _ => None,
    };
    let connector = service_fn(move |_: Uri| {
        let (host, tls) = (host.clone(), tls.clone());
        async move {
            let tcp = TcpStream::connect((host.as_str(), port)).await?;
            let io: Box<dyn Io> = match tls {
                Some((connector, name)) => Box::new(connector.connect(name, tcp).await?),
                None => Box::new(tcp),
            };
            Ok::<_, std::io::Error>(TokioIo::new(io))
        }
    });
    Ok(Endpoint::from_static("http://collector")
        .connect_timeout(CONNECT)
        .timeout(EXPORT)
        .connect_with_connector_lazy(connector))
}

/// Verifies the collector by this machine's own roots.
fn tls(host: &str) -> Result<(TlsConnector, ServerName<'static>), BoxError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("this machine has no root certificates: install ca-certificates".into());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(host.to_owned())?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// Whether exports succeed. Logged once when they begin to fail, and once when they succeed again.
#[derive(Debug)]
pub(super) struct Reach {
    endpoint: String,
    failing: Mutex<BTreeSet<&'static str>>,
}

impl Reach {
    pub(super) fn new(endpoint: &Uri) -> Self {
        Self {
            endpoint: endpoint.to_string(),
            failing: Mutex::default(),
        }
    }

    fn told(&self, signal: &'static str, result: &OTelSdkResult) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => {
                if failing.remove(signal) && failing.is_empty() {
                    tracing::info!(
                        endpoint = self.endpoint,
                        "The OpenTelemetry collector is back"
                    );
                }
            }
            Err(error) => {
                if failing.insert(signal) && failing.len() == 1 {
                    tracing::warn!(
                        endpoint = self.endpoint,
                        %error,
                        "The OpenTelemetry collector does not take {signal}: what is for it is lost until it does. This is \
                         said once"
                    );
                }
            }
        }
    }
}

/// An exporter that reports its failures to `reach`.
#[derive(Debug)]
pub(super) struct Telling<E> {
    signal: &'static str,
    inner: E,
    reach: Arc<Reach>,
}

impl<E> Telling<E> {
    pub(super) const fn new(signal: &'static str, inner: E, reach: Arc<Reach>) -> Self {
        Self {
            signal,
            inner,
            reach,
        }
    }
}

impl<E: SpanExporter> SpanExporter for Telling<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.inner.export(batch).await;
        self.reach.told(self.signal, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Telling<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let result = self.inner.export(metrics).await;
        self.reach.told(self.signal, &result);
        result
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.inner.temporality()
    }
}
