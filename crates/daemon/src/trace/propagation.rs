//! W3C Trace Context: where a span of this process stands in a caller's trace, and a callee's in ours.

use http::{HeaderMap, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::TRACEPARENT;

/// Makes a span that was not entered yet a child of the caller's span, if the caller sent a `traceparent`.
pub(super) fn set_parent(span: &Span, headers: &HeaderMap) {
    if let Some(parent) = parent(headers) {
        // It fails for spans that were entered, and this one was not.
        let _ = span.set_parent(parent);
    }
}

/// The `traceparent` for calls that are part of this span.
pub(super) fn traceparent(span: &Span) -> Option<HeaderValue> {
    let context = span.context();
    let current = context.span();
    let current = current.span_context();
    if !current.is_valid() {
        return None;
    }
    let text = format!(
        "00-{}-{}-{:02x}",
        current.trace_id(),
        current.span_id(),
        current.trace_flags()
    );
    HeaderValue::from_str(&text).ok()
}

/// Only `traceparent`: other headers (`tracestate`, baggage) are not propagated.
struct Parent<'a>(&'a str);

impl Extractor for Parent<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT).then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

fn parent(headers: &HeaderMap) -> Option<Context> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    let parent = TraceContextPropagator::new().extract(&Parent(text));
    parent.span().span_context().is_valid().then_some(parent)
}
