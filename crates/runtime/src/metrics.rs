//! Metrics: counted through the `metrics` facade, read by Prometheus.
//!
//! Names are `countersign_{server,agent}_<noun>_{total,seconds,bytes}`. Labels come from closed enums, never from what a
//! caller sent: each distinct label is kept for ever.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use metrics::Label;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service};

/// Seconds that are told apart, from what a local answer takes to what a call to a server may.
const SECONDS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
];
/// Histograms are folded up so often, so that they take a bounded space.
const UPKEEP: Duration = Duration::from_secs(5);

/// The process's metrics, as Prometheus reads them.
#[derive(Clone)]
pub struct Prometheus(PrometheusHandle);

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The recorder was not built.
    #[error("cannot prepare the metrics")]
    Build(#[from] BuildError),
    /// Another recorder is installed.
    #[error("the metrics of this process are recorded elsewhere already")]
    Installed,
}

impl Prometheus {
    /// Records this process's metrics from now on. Once per process.
    ///
    /// # Errors
    /// [`MetricsError`].
    pub fn install() -> Result<Self, MetricsError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Installed)?;
        Ok(Self(handle))
    }

    /// What `/metrics` answers.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Answers on `/metrics`.
    pub fn router(&self) -> Router {
        let handle = self.clone();
        let page = async move || {
            let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
            (kind, handle.render())
        };
        Router::new().route("/metrics", get(page))
    }

    /// Folds histograms up until `stop` is cancelled.
    pub async fn keep_up(self, stop: CancellationToken) {
        let for_ever = async {
            loop {
                tokio::time::sleep(UPKEEP).await;
                self.0.run_upkeep();
            }
        };
        stop.run_until_cancelled(for_ever).await;
    }
}

/// Counts and times the calls of a gRPC service, by method and code.
#[derive(Clone, Debug)]
pub struct CallMetrics {
    total: &'static str,
    seconds: &'static str,
    methods: Arc<[&'static str]>,
}

impl CallMetrics {
    /// Counts into `total` and times into `seconds` what is called on these paths (`/package.Service/Method`). All other
    /// paths are one.
    #[must_use]
    pub fn new(
        total: &'static str,
        seconds: &'static str,
        methods: impl IntoIterator<Item = &'static str>,
    ) -> Self {
        let mut methods: Vec<_> = methods.into_iter().collect();
        methods.sort_unstable();
        Self {
            total,
            seconds,
            methods: methods.into(),
        }
    }

    fn method(&self, path: &str) -> &'static str {
        self.methods
            .binary_search(&path)
            .ok()
            .and_then(|index| self.methods.get(index).copied())
            .map_or("other", |path| path.trim_start_matches('/'))
    }
}

impl<S> Layer<S> for CallMetrics {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            metrics: self.clone(),
        }
    }
}

/// A service whose calls are counted. The time is that to the first answer: streams may stay open for days.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    metrics: CallMetrics,
}

impl<S, B, A> Service<http::Request<B>> for Counted<S>
where
    S: Service<http::Request<B>, Response = http::Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send + 'static>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let method = self.metrics.method(request.uri().path());
        let (total, seconds) = (self.metrics.total, self.metrics.seconds);
        let began = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // A refusal without a stream carries its code in the headers.
            let code = answer
                .headers()
                .get("grpc-status")
                .and_then(|code| code.to_str().ok())
                .and_then(|code| code.parse::<i32>().ok())
                .map_or("OK", code_name);
            let labels = [
                Label::from_static_parts("method", method),
                Label::from_static_parts("code", code),
            ];
            metrics::counter!(total, labels.iter()).increment(1);
            metrics::histogram!(seconds, "method" => method).record(began.elapsed().as_secs_f64());
            Ok(answer)
        })
    }
}

const fn code_name(code: i32) -> &'static str {
    match code {
        0 => "OK",
        1 => "Canceled",
        2 => "Unknown",
        3 => "InvalidArgument",
        4 => "DeadlineExceeded",
        5 => "NotFound",
        6 => "AlreadyExists",
        7 => "PermissionDenied",
        8 => "ResourceExhausted",
        9 => "FailedPrecondition",
        10 => "Aborted",
        11 => "OutOfRange",
        12 => "Unimplemented",
        13 => "Internal",
        14 => "Unavailable",
        15 => "DataLoss",
        16 => "Unauthenticated",
        _ => "other",
    }
}
