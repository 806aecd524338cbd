//! Spans, for the OpenTelemetry collector alone: one for each call, sync, attestation and rotation, and which span of
//! somebody else's they belong to (W3C Trace Context).
//!
//! They are `tracing` spans of a target of their own, which the log never shows. Without a collector they are disabled,
//! and cost a look at a flag. Their fields are methods, codes and counts: nothing that a caller sent, no ID and no secret.

use http::{HeaderMap, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::field::Empty;
use tracing::{Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The target of all spans that are sent.
pub const SPANS: &str = "countersign_spans";
/// The header that says which span a call belongs to.
pub const TRACEPARENT: &str = "traceparent";

/// A span of something that this process does by itself.
#[macro_export]
macro_rules! span {
    ($name:literal $(, $($fields:tt)*)?) => {
        ::tracing::span!(target: $crate::trace::SPANS, ::tracing::Level::INFO, $name $(, $($fields)*)?)
    };
}

pub use crate::span;

/// A span of a call that came in, below the caller's own if it says which that is. `method` is `package.Service/Method`.
pub(crate) fn call(method: &'static str, headers: &HeaderMap) -> Span {
    let (service, name) = method.split_once('/').unwrap_or((method, ""));
    let span = tracing::span!(
        target: SPANS,
        Level::INFO,
        "call",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = name,
        rpc.grpc.status_code = Empty,
    );
    if !span.is_disabled()
        && let Some(parent) = parent(headers)
    {
        // It was not entered yet: nothing can be too late.
        let _ = span.set_parent(parent);
    }
    span
}

/// How a call ended. Of the codes only those are errors that are the server's fault, as OpenTelemetry's conventions have
/// it.
pub(crate) fn ended(span: &Span, code: usize) {
    span.record("rpc.grpc.status_code", code);
    // Unknown, DeadlineExceeded, Unimplemented, Internal, Unavailable, DataLoss.
    if matches!(code, 2 | 4 | 12..=15) {
        span.record("otel.status_code", "ERROR");
    }
}

/// Where the current span stands, for whom this process calls; none if it is not sent.
#[must_use]
pub fn traceparent() -> Option<HeaderValue> {
    let span = Span::current();
    if span.is_disabled() {
        return None;
    }
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

/// Only that header: whatever else callers send along (`tracestate`, baggage) ends here.
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
