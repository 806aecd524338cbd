//! Traces and metrics for an OpenTelemetry collector: a receiver that speaks OTLP, and one that is never there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use countersign_proto::spiffe::workload::JwtsvidRequest;
use countersign_proto::spiffe::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use countersign_tests::deployment::{Deployment, Settings, text};
use countersign_tests::process::PATIENCE;
use countersign_transport::dial::UnixConnector;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status};

use crate::NODE;
use crate::federation::Web;

const SERVER: &str = "countersign-server";
const AGENT: &str = "countersign-agent";

/// What was received, by the daemon that sent it.
#[derive(Clone, Default)]
struct Received(Arc<Inner>);

#[derive(Default)]
struct Inner {
    spans: Mutex<Vec<(String, Span)>>,
    metrics: Mutex<BTreeMap<(String, String), String>>,
    news: Notify,
}

fn service(resource: Option<&Resource>) -> String {
    let attributes = resource.map(|resource| resource.attributes.as_slice());
    attributes
        .unwrap_or_default()
        .iter()
        .find(|attribute| attribute.key == "service.name")
        .and_then(|attribute| attribute.value.as_ref()?.value.as_ref())
        .and_then(|value| match value {
            Value::StringValue(name) => Some(name.clone()),
            _ => None,
        })
        .unwrap_or_default()
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for group in request.into_inner().resource_spans {
            let from = service(group.resource.as_ref());
            let spans = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let mut all = self.0.spans.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(spans.map(|span| (from.clone(), span)));
        }
        self.0.news.notify_one();
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for group in request.into_inner().resource_metrics {
            let from = service(group.resource.as_ref());
            let metrics = group
                .scope_metrics
                .into_iter()
                .flat_map(|scope| scope.metrics);
            let mut all = self
                .0
                .metrics
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            all.extend(metrics.map(|m| ((from.clone(), m.name.clone()), format!("{m:?}"))));
        }
        self.0.news.notify_one();
        Ok(Response::new(Default::default()))
    }
}

impl Received {
    async fn listen() -> anyhow::Result<(Self, SocketAddr, JoinHandle<()>)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let received = Self::default();
        let (traces, metrics) = (received.clone(), received.clone());
        let serving = tokio::spawn(async move {
            let served = tonic::transport::Server::builder()
                .add_service(TraceServiceServer::new(traces))
                .add_service(MetricsServiceServer::new(metrics))
                .serve_with_incoming(TcpListenerStream::new(listener));
            let _ = served.await;
        });
        Ok((received, address, serving))
    }

    /// Waits until this finds something among what was received.
    async fn until<T>(&self, what: &str, find: impl Fn(&Self) -> Option<T>) -> anyhow::Result<T> {
        let found = async {
            loop {
                if let Some(found) = find(self) {
                    return found;
                }
                self.0.news.notified().await;
            }
        };
        let seen = || {
            let spans = self.spans();
            spans
                .iter()
                .map(|(from, span)| format!("{from}: {}", span.name))
                .collect::<Vec<_>>()
        };
        tokio::time::timeout(PATIENCE, found)
            .await
            .map_err(|_| anyhow::anyhow!("{what} did not come; there were {:?}", seen()))
    }

    fn spans(&self) -> Vec<(String, Span)> {
        self.0
            .spans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A span of this daemon with this name, of which that holds too.
    async fn span(
        &self,
        from: &str,
        name: &str,
        holds: impl Fn(&Span) -> bool,
    ) -> anyhow::Result<Span> {
        self.until(&format!("{name} of {from}"), |received| {
            let spans = received.spans().into_iter();
            let mut spans = spans.filter(|(by, span)| by == from && span.name == name);
            spans.find(|(_, span)| holds(span)).map(|(_, span)| span)
        })
        .await
    }

    /// The metric of this daemon with this name, as it was received last, once that holds.
    async fn metric(
        &self,
        from: &str,
        name: &str,
        holds: impl Fn(&str) -> bool,
    ) -> anyhow::Result<()> {
        let key = (from.to_owned(), name.to_owned());
        self.until(name, |received| {
            let metrics = received
                .0
                .metrics
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            metrics.get(&key).filter(|metric| holds(metric)).map(|_| ())
        })
        .await
    }
}

fn settings(collector: &str) -> Settings {
    Settings {
        sections: format!(
            "telemetry {{\n  OTLP {{\n    endpoint = \"{collector}\"\n    metrics_interval = \"1s\"\n  }}\n}}"
        ),
        ..crate::metrics::settings()
    }
}

#[tokio::test]
async fn a_collector_sees_calls_and_background_work() -> anyhow::Result<()> {
    let (received, address, serving) = Received::listen().await?;
    let mut deployment = Deployment::start(NODE, settings(&format!("http://{address}"))).await?;
    let this = std::env::current_exe()?;
    let id = "spiffe://ai-agents.org/traced";
    deployment.entry(id, &this, &[]).await?;

    // As a workload that is traced itself.
    let trace = [7_u8; 16];
    let caller = [9_u8; 8];
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(UnixConnector::new(deployment.agent_socket()))
        .await?;
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let token = tokio::time::timeout(PATIENCE, async {
        loop {
            let mut request = Request::new(JwtsvidRequest {
                audience: vec!["somebody".into()],
                spiffe_id: String::new(),
            });
            let parent = format!("00-{}-{}-01", hex(&trace), hex(&caller));
            request
                .metadata_mut()
                .insert("traceparent", parent.parse()?);
            request
                .metadata_mut()
                .insert("baggage", "secret=hidden".parse()?);
            request
                .metadata_mut()
                .insert("workload.spiffe.io", "true".parse()?);
            match client.fetch_jwtsvid(request).await {
                Ok(answer) => {
                    let svid = answer.into_inner().svids.into_iter().next();
                    return Ok::<_, anyhow::Error>(svid.context("no SVID")?.svid);
                }
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    })
    .await??;

    let call = |span: &Span| span.trace_id == trace && span.parent_span_id == caller;
    received
        .span(AGENT, "SpiffeWorkloadAPI/FetchJWTSVID", call)
        .await?;
    let asked = "spire.api.server.svid.v1.SVID/NewJWTSVID";
    let asked = received
        .span(SERVER, asked, |span| span.trace_id == trace)
        .await?;
    received
        .span(AGENT, "SpiffeWorkloadAPI/FetchJWTSVID", |span| {
            span.span_id == asked.parent_span_id
        })
        .await?;

    for (own, called) in [
        (
            "sync",
            "spire.api.server.entry.v1.Entry/SyncAuthorizedEntries",
        ),
        ("attest node", "spire.api.server.agent.v1.Agent/AttestAgent"),
        (
            "sign svids",
            "spire.api.server.svid.v1.SVID/BatchNewX509SVID",
        ),
    ] {
        let called = received.span(SERVER, called, |_| true).await?;
        received
            .span(AGENT, own, |span| {
                span.trace_id == called.trace_id && span.span_id == called.parent_span_id
            })
            .await?;
    }
    received
        .span(SERVER, "activate authority", |_| true)
        .await?;

    let named = |label: &'static str| move |metric: &str| metric.contains(label);
    received
        .metric(
            AGENT,
            "countersign_agent_calls_total",
            named("SpiffeWorkloadAPI/FetchJWTSVID"),
        )
        .await?;
    received
        .metric(AGENT, "countersign_agent_calls_seconds", named("Histogram"))
        .await?;
    received
        .metric(AGENT, "countersign_agent_ready", named("AsDouble(1.0)"))
        .await?;
    received
        .metric(SERVER, "countersign_server_entries", named("AsDouble(1.0)"))
        .await?;
    received
        .metric(
            SERVER,
            "countersign_server_signatures_total",
            named("downstream"),
        )
        .await?;

    // What is left goes out at the end.
    let ended = deployment
        .agent
        .take()
        .context("no node agent")?
        .terminate()
        .await?;
    ensure!(ended.success(), "{ended}");
    let mut all = format!("{:?}", received.spans());
    for metric in received
        .0
        .metrics
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .values()
    {
        all.push_str(metric);
    }
    for secret in [token.as_str(), "spiffe://", "hidden", "/tmp", "unix:"] {
        ensure!(!all.contains(secret), "{secret} was sent");
    }
    serving.abort();
    Ok(())
}

#[tokio::test]
async fn a_missing_collector_is_logged_once_and_stops_nothing() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut deployment = Deployment::start(
        NODE,
        settings(&format!("http://{}", listener.local_addr()?)),
    )
    .await?;
    let workload = deployment.register("/served", &[]).await?;
    deployment.fetched(&workload).await?;
    let told = "The OpenTelemetry collector does not take";
    for process in [&mut deployment.server, &mut deployment.agent] {
        let process = process.as_mut().context("a daemon has ended")?;
        // Each batch makes a connection, and each is broken off.
        let output = async {
            while !process.output().contains(told) {
                drop(listener.accept().await?);
            }
            for _ in 0..10 {
                drop(listener.accept().await?);
            }
            Ok::<_, std::io::Error>(process.output())
        };
        let output = tokio::time::timeout(PATIENCE, output).await??;
        ensure!(output.matches(told).count() == 1, "{output}");
    }
    deployment.fetched(&workload).await?;
    // Nobody answers, and the end is not put off for that.
    drop(listener);
    let ended = deployment
        .agent
        .take()
        .context("no node agent")?
        .terminate()
        .await?;
    ensure!(ended.success(), "{ended}");
    Ok(())
}

/// Takes TLS off what comes in, and passes it on.
async fn behind_tls(web: &Web, to: SocketAddr) -> anyhow::Result<SocketAddr> {
    let chain = CertificateDer::pem_file_iter(web.path("leaf.pem"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(web.path("leaf.key"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((caller, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut caller = acceptor.accept(caller).await?;
                let mut behind = TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut caller, &mut behind).await
            });
        }
    });
    Ok(address)
}

#[tokio::test]
async fn a_collector_with_an_untrusted_certificate_gets_nothing() -> anyhow::Result<()> {
    let web = Web::new()?;
    let (received, address, serving) = Received::listen().await?;
    let address = behind_tls(&web, address).await?;
    let root = text(&web.path("root.pem"))?.to_owned();
    let settings = Settings {
        server_env: vec![("SSL_CERT_FILE".into(), root)],
        ..settings(&format!("https://{address}"))
    };
    let mut deployment = Deployment::start(NODE, settings).await?;
    received
        .span(SERVER, "activate authority", |_| true)
        .await?;
    // The node agent has the machine's own roots alone.
    let agent = deployment.agent.as_mut().context("no node agent")?;
    agent
        .printed("The OpenTelemetry collector does not take")
        .await?;
    ensure!(
        received.spans().iter().all(|(from, _)| from == SERVER),
        "the node agent spoke"
    );
    serving.abort();
    Ok(())
}
