//! Metrics: counted through the `metrics` facade, read by Prometheus, an OpenTelemetry collector, or both.
//!
//! Names are `countersign_{server,agent}_<noun>_{total,seconds,bytes}`; each daemon lists its own, and `docs/metrics.md`
//! is held against these lists. Labels come from closed enums, never from what a caller sent: each distinct label is
//! kept for ever.

mod call;

use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use metrics::{KeyName, Recorder, Unit};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use tokio_util::sync::CancellationToken;

use crate::otlp::Recording;

pub use call::{Answer, CallMetrics, CallNames, Counted, Counting};

/// Seconds that are told apart, from what a local answer takes to what a call to a server may.
pub(crate) const SECONDS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
];
/// Histograms are folded up so often, so that they take a bounded space, and what is looked at is looked at.
const UPKEEP: Duration = Duration::from_secs(5);

/// A metric: what it is called, and what people read about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// With its unit, as it is exported.
    pub name: &'static str,
    /// How it behaves.
    pub kind: MetricKind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often which values were seen.
    Histogram,
}

impl Metric {
    /// A counter; its name ends in `_total`.
    #[must_use]
    pub const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            name,
            kind: MetricKind::Counter,
            labels,
            help,
        }
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            name,
            kind: MetricKind::Gauge,
            labels,
            help,
        }
    }

    /// A histogram; its name ends in its unit.
    #[must_use]
    pub const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            name,
            kind: MetricKind::Histogram,
            labels,
            help,
        }
    }

    /// The gauge that says whether a daemon's callers are served.
    #[must_use]
    pub const fn ready(name: &'static str) -> Self {
        Self::gauge(
            name,
            &[],
            "1 if callers are served, which is what /ready answers; 0 otherwise.",
        )
    }

    /// The gauge that says which version of a daemon runs.
    #[must_use]
    pub const fn build(name: &'static str) -> Self {
        Self::gauge(
            name,
            &["version"],
            "Always 1; the label is the version of the program.",
        )
    }

    fn describe(&self, recorder: &dyn metrics::Recorder) {
        let (name, help) = (KeyName::from_const_str(self.name), self.help.into());
        let unit = self.name.contains("_seconds").then_some(Unit::Seconds);
        match self.kind {
            MetricKind::Counter => recorder.describe_counter(name, unit, help),
            MetricKind::Gauge => recorder.describe_gauge(name, unit, help),
            MetricKind::Histogram => recorder.describe_histogram(name, unit, help),
        }
    }
}

/// The process's metrics, as Prometheus reads them.
#[derive(Clone)]
pub struct Prometheus(PrometheusHandle);

/// Who wants this process's metrics.
#[derive(Clone, Copy, Debug)]
pub enum Readers<'a> {
    /// Prometheus.
    Prometheus,
    /// An OpenTelemetry collector.
    Collector(&'a SdkMeterProvider),
    /// Both.
    Both(&'a SdkMeterProvider),
}

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

/// Records this process's metrics from now on, of which there are these. Once per process. What comes back is for
/// Prometheus, if it is among the readers.
///
/// # Errors
/// [`MetricsError`].
pub fn install(
    catalogue: &[Metric],
    readers: Readers<'_>,
) -> Result<Option<Prometheus>, MetricsError> {
    let prometheus = match readers {
        Readers::Collector(_) => None,
        Readers::Prometheus | Readers::Both(_) => Some(
            PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
                .build_recorder(),
        ),
    };
    let handle = prometheus
        .as_ref()
        .map(|recorder| Prometheus(recorder.handle()));
    match (readers, prometheus) {
        (Readers::Collector(provider) | Readers::Both(provider), prometheus) => {
            set(catalogue, Recording::new(provider, catalogue, prometheus))?;
        }
        (Readers::Prometheus, Some(recorder)) => set(catalogue, recorder)?,
        (Readers::Prometheus, None) => {}
    }
    Ok(handle)
}

fn set<R: Recorder + Send + Sync + 'static>(
    catalogue: &[Metric],
    recorder: R,
) -> Result<(), MetricsError> {
    for metric in catalogue {
        metric.describe(&recorder);
    }
    metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Installed)
}

impl Prometheus {
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

/// Looks at what nobody tells of by itself, now and again and again until `stop` is cancelled.
pub async fn observe(look: impl Fn(), stop: CancellationToken) {
    let for_ever = async {
        loop {
            look();
            tokio::time::sleep(UPKEEP).await;
        }
    };
    stop.run_until_cancelled(for_ever).await;
}

/// Sets a gauge to a count.
pub fn count(metric: Metric, number: usize) {
    metrics::gauge!(metric.name).set(float(number));
}

/// A count as a gauge takes it.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float, and counts are far below 2^52"
)]
pub const fn float(number: usize) -> f64 {
    number as f64
}
