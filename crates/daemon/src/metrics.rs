//! Descriptions of metrics, and the layer that counts calls. `recorder` exports them.
//!
//! Names are `countersign_{server,agent}_<noun>_{total,seconds,bytes}`. Each daemon has a list of its own, and a test
//! compares `docs/metrics.md` with these lists. Labels come from closed enums, never from a caller's input: the
//! recorder holds a series for each distinct label for ever.

mod call;

use metrics::{KeyName, Unit};

pub use call::{Answer, CallMetrics, CallNames, Counted, Counting};

/// Bucket bounds of the histograms, in seconds: from the latency of a local answer to the timeout of a call to a
/// server.
pub(crate) const SECONDS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
];

/// The names of a metric's labels.
pub type Labels = &'static [&'static str];

/// A metric: its name, type, labels and description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// With its unit, as it is exported.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    /// The names of its labels.
    pub labels: Labels,
    /// One sentence.
    pub help: &'static str,
}

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// The distribution of observed values.
    Histogram,
}

impl Metric {
    /// A counter; its name ends in `_total`.
    #[must_use]
    pub const fn counter(name: &'static str, labels: Labels, help: &'static str) -> Self {
        Self::new(MetricKind::Counter, name, labels, help)
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, labels: Labels, help: &'static str) -> Self {
        Self::new(MetricKind::Gauge, name, labels, help)
    }

    /// A histogram; its name ends in its unit.
    #[must_use]
    pub const fn histogram(name: &'static str, labels: Labels, help: &'static str) -> Self {
        Self::new(MetricKind::Histogram, name, labels, help)
    }

    const fn new(kind: MetricKind, name: &'static str, labels: Labels, help: &'static str) -> Self {
        Self {
            name,
            kind,
            labels,
            help,
        }
    }

    /// The histogram of the latency of calls.
    #[must_use]
    pub const fn call_seconds(name: &'static str) -> Self {
        Self::histogram(
            name,
            &["method"],
            "Time from the beginning of a call to its first answer.",
        )
    }

    /// The gauge for readiness: 1 while callers are served.
    #[must_use]
    pub const fn ready(name: &'static str) -> Self {
        Self::gauge(
            name,
            &[],
            "1 if callers are served, which is what /ready answers; 0 otherwise.",
        )
    }

    /// The gauge whose label is the version of the running daemon.
    #[must_use]
    pub const fn build(name: &'static str) -> Self {
        Self::gauge(
            name,
            &["version"],
            "Always 1; the label is the version of the program.",
        )
    }

    pub(crate) fn describe(&self, recorder: &dyn metrics::Recorder) {
        let (name, help) = (KeyName::from_const_str(self.name), self.help.into());
        let unit = self.name.contains("_seconds").then_some(Unit::Seconds);
        match self.kind {
            MetricKind::Counter => recorder.describe_counter(name, unit, help),
            MetricKind::Gauge => recorder.describe_gauge(name, unit, help),
            MetricKind::Histogram => recorder.describe_histogram(name, unit, help),
        }
    }
}

/// The value of the label `result`: `ok` or `failed`.
pub const fn result_label<T, E>(result: &Result<T, E>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(_) => "failed",
    }
}

/// Sets a gauge to a count.
pub fn count(metric: Metric, number: usize) {
    metrics::gauge!(metric.name).set(float(number));
}

/// A count as the value of a gauge.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float, and counts are far below 2^52"
)]
pub const fn float(number: usize) -> f64 {
    number as f64
}
