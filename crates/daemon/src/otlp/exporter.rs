//! The export to the collector, and its threads.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider,
};
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::registry::LookupSpan;

use super::OtlpOptions;
use super::collector::{self, Reach, Telling};
use super::error::OtlpError;
use crate::trace::SPANS;

/// Capacity of the queue of spans; beyond it spans are dropped.
const QUEUE: usize = 2_048;
/// The most spans in one batch.
const BATCH: usize = 512;
/// The longest delay of a batch that is not full.
const DELAY: Duration = Duration::from_secs(5);
/// Deadline of the last flush at shutdown.
const FINISH: Duration = Duration::from_secs(3);

/// The running export of this process.
#[derive(Debug)]
pub struct Otlp {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

impl Otlp {
    /// Starts the export, once per process. Call it within a Tokio runtime, which drives the connection. `service`
    /// becomes `service.name`.
    ///
    /// # Errors
    /// [`OtlpError`]. An unreachable collector is not an error.
    pub fn start(
        options: &OtlpOptions,
        service: &'static str,
        version: &'static str,
    ) -> Result<Self, OtlpError> {
        let channel = collector::channel(&options.endpoint)?;
        let failed = |source| OtlpError::Build {
            endpoint: options.endpoint.clone(),
            source,
        };
        let reach = Arc::new(Reach::new(&options.endpoint));
        let resource = Resource::builder_empty()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.version", version))
            .build();
        let traces = match options.traces {
            None => None,
            Some(ratio) => {
                let exporter = SpanExporter::builder()
                    .with_tonic()
                    .with_channel(channel.clone())
                    .build()
                    .map_err(failed)?;
                let exporter = Telling::new("traces", exporter, Arc::clone(&reach));
                let batches = BatchConfigBuilder::default()
                    .with_max_queue_size(QUEUE)
                    .with_max_export_batch_size(BATCH)
                    .with_scheduled_delay(DELAY)
                    .build();
                let processor = BatchSpanProcessor::builder(exporter)
                    .with_batch_config(batches)
                    .build();
                let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)));
                let provider = SdkTracerProvider::builder()
                    .with_span_processor(processor)
                    .with_sampler(sampler)
                    .with_resource(resource.clone())
                    .build();
                Some(provider)
            }
        };
        let metrics = match options.metrics {
            None => None,
            Some(interval) => {
                let exporter = MetricExporter::builder()
                    .with_tonic()
                    .with_channel(channel)
                    .build()
                    .map_err(failed)?;
                let exporter = Telling::new("metrics", exporter, reach);
                let reader = PeriodicReader::builder(exporter)
                    .with_interval(interval)
                    .build();
                let provider = SdkMeterProvider::builder()
                    .with_reader(reader)
                    .with_resource(resource)
                    .build();
                Some(provider)
            }
        };
        Ok(Self { traces, metrics })
    }

    /// The layer that exports spans of [`SPANS`], and nothing else.
    pub(crate) fn layer<S>(&self) -> Option<Box<dyn Layer<S> + Send + Sync>>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let tracer = self.traces.as_ref()?.tracer("countersign");
        let layer = OpenTelemetryLayer::new(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        let filter = Targets::new().with_target(SPANS, LevelFilter::INFO);
        Some(layer.with_filter(filter).boxed())
    }

    /// Whether metrics are sent.
    pub(crate) const fn sends_metrics(&self) -> bool {
        self.metrics.is_some()
    }

    /// The provider of meters.
    pub(crate) fn metrics(&self) -> Option<&SdkMeterProvider> {
        self.metrics.as_ref()
    }

    /// Flushes what is queued, if that is possible within a few seconds.
    pub fn finish(self) {
        let (done, wait) = mpsc::channel();
        // On a thread of its own, which is abandoned if the collector does not answer.
        std::thread::spawn(move || {
            if let Some(traces) = self.traces {
                let _ = traces.shutdown_with_timeout(FINISH);
            }
            if let Some(metrics) = self.metrics {
                let _ = metrics.shutdown_with_timeout(FINISH);
            }
            let _ = done.send(());
        });
        let _ = wait.recv_timeout(FINISH);
    }
}
