//! Spans, for the OpenTelemetry collector alone: one for each call, sync, attestation and rotation, and which span of
//! somebody else's they belong to (W3C Trace Context).
//!
//! They are `tracing` spans of a target of their own, which the log never shows. Without a collector they are disabled,
//! and cost a look at a flag. Their fields are methods, codes and counts: nothing that a caller sent, no ID and no secret.

#[cfg(feature = "otlp")]
mod propagation;

use http::{HeaderMap, HeaderValue};
use tracing::field::Empty;
use tracing::{Level, Span};

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
    #[cfg(feature = "otlp")]
    if !span.is_disabled() {
        propagation::set_parent(&span, headers);
    }
    #[cfg(not(feature = "otlp"))]
    let _ = headers;
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

/// The `traceparent` of the current span, for calls that this process makes; none if the span is not sent.
#[must_use]
pub fn traceparent() -> Option<HeaderValue> {
    let span = Span::current();
    if span.is_disabled() {
        return None;
    }
    #[cfg(feature = "otlp")]
    return propagation::traceparent(&span);
    #[cfg(not(feature = "otlp"))]
    return None;
}
