//! A recorder for the `metrics` facade that feeds the collector, and Prometheus too if there is such a recorder.
//!
//! Counters and gauges are atomic numbers that the collector's periodic reader observes; only histograms record each
//! value as it comes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use metrics_exporter_prometheus::PrometheusRecorder;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use crate::metrics::{Metric, MetricKind, SECONDS};

/// The series of one metric, by their labels.
type Series = Arc<Mutex<HashMap<Key, Arc<AtomicU64>>>>;

/// The recorder.
pub(crate) struct Recording {
    prometheus: Option<PrometheusRecorder>,
    numbers: HashMap<&'static str, Series>,
    histograms: HashMap<&'static str, opentelemetry::metrics::Histogram<f64>>,
}

impl Recording {
    /// Records these metrics for the collector, and forwards everything to `prometheus` if there is one.
    pub(crate) fn new(
        provider: &SdkMeterProvider,
        catalogue: &[Metric],
        prometheus: Option<PrometheusRecorder>,
    ) -> Self {
        let meter = provider.meter("countersign");
        let (mut numbers, mut histograms) = (HashMap::new(), HashMap::new());
        for metric in catalogue {
            match metric.kind {
                MetricKind::Histogram => {
                    histograms.insert(metric.name, histogram(&meter, metric));
                }
                MetricKind::Counter | MetricKind::Gauge => {
                    numbers.insert(metric.name, observed(&meter, metric));
                }
            }
        }
        Self {
            prometheus,
            numbers,
            histograms,
        }
    }

    /// The number with this name and these labels. A metric that is not in the list gets one that is never read.
    fn number(&self, key: &Key) -> Arc<AtomicU64> {
        let Some(series) = self.numbers.get(key.name()) else {
            return Arc::default();
        };
        let mut series = series.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(series.entry(key.clone()).or_default())
    }
}

const fn unit(metric: &Metric) -> &'static str {
    match metric.kind {
        MetricKind::Histogram => "s",
        MetricKind::Counter | MetricKind::Gauge => "",
    }
}

fn histogram(meter: &Meter, metric: &Metric) -> opentelemetry::metrics::Histogram<f64> {
    meter
        .f64_histogram(metric.name)
        .with_description(metric.help)
        .with_unit(unit(metric))
        .with_boundaries(SECONDS.to_vec())
        .build()
}

/// The callbacks live as long as the meter, so the returned instrument handles can be dropped.
fn observed(meter: &Meter, metric: &Metric) -> Series {
    let series = Series::default();
    let seen = Arc::clone(&series);
    let each = move |tell: &dyn Fn(u64, &[KeyValue])| {
        let series = seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, number) in &*series {
            tell(number.load(Ordering::Relaxed), &attributes(key));
        }
    };
    if metric.kind == MetricKind::Counter {
        let _ = meter
            .u64_observable_counter(metric.name)
            .with_description(metric.help)
            .with_callback(move |observer| each(&|number, labels| observer.observe(number, labels)))
            .build();
    } else {
        let _ = meter
            .f64_observable_gauge(metric.name)
            .with_description(metric.help)
            .with_callback(move |observer| {
                each(&|bits, labels| observer.observe(f64::from_bits(bits), labels));
            })
            .build();
    }
    series
}

fn attributes(key: &Key) -> Vec<KeyValue> {
    key.labels()
        .map(|label| KeyValue::new(label.key().to_owned(), label.value().to_owned()))
        .collect()
}

/// Forwards to both.
struct Both<P, O>(Option<P>, O);

impl CounterFn for Both<Counter, Arc<AtomicU64>> {
    fn increment(&self, value: u64) {
        if let Some(prometheus) = &self.0 {
            prometheus.increment(value);
        }
        self.1.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        if let Some(prometheus) = &self.0 {
            prometheus.absolute(value);
        }
        self.1.fetch_max(value, Ordering::Relaxed);
    }
}

impl GaugeFn for Both<Gauge, Arc<AtomicU64>> {
    fn increment(&self, value: f64) {
        if let Some(prometheus) = &self.0 {
            prometheus.increment(value);
        }
        GaugeFn::increment(&*self.1, value);
    }

    fn decrement(&self, value: f64) {
        if let Some(prometheus) = &self.0 {
            prometheus.decrement(value);
        }
        GaugeFn::decrement(&*self.1, value);
    }

    fn set(&self, value: f64) {
        if let Some(prometheus) = &self.0 {
            prometheus.set(value);
        }
        GaugeFn::set(&*self.1, value);
    }
}

/// A histogram of the collector, with its labels.
struct Labelled(opentelemetry::metrics::Histogram<f64>, Vec<KeyValue>);

impl HistogramFn for Both<Histogram, Labelled> {
    fn record(&self, value: f64) {
        if let Some(prometheus) = &self.0 {
            prometheus.record(value);
        }
        let Labelled(histogram, labels) = &self.1;
        histogram.record(value, labels);
    }
}

impl Recorder for Recording {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        if let Some(prometheus) = &self.prometheus {
            prometheus.describe_counter(key, unit, help);
        }
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        if let Some(prometheus) = &self.prometheus {
            prometheus.describe_gauge(key, unit, help);
        }
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        if let Some(prometheus) = &self.prometheus {
            prometheus.describe_histogram(key, unit, help);
        }
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        let prometheus = self.prometheus.as_ref();
        let prometheus = prometheus.map(|recorder| recorder.register_counter(key, metadata));
        Counter::from_arc(Arc::new(Both(prometheus, self.number(key))))
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        let prometheus = self.prometheus.as_ref();
        let prometheus = prometheus.map(|recorder| recorder.register_gauge(key, metadata));
        Gauge::from_arc(Arc::new(Both(prometheus, self.number(key))))
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        let prometheus = self.prometheus.as_ref();
        let prometheus = prometheus.map(|recorder| recorder.register_histogram(key, metadata));
        match self.histograms.get(key.name()) {
            Some(histogram) => {
                let labelled = Labelled(histogram.clone(), attributes(key));
                Histogram::from_arc(Arc::new(Both(prometheus, labelled)))
            }
            None => prometheus.unwrap_or_else(Histogram::noop),
        }
    }
}
