//! Spans, for the OpenTelemetry collector only: one for each call, sync, attestation and rotation, with the parent span
//! of a remote caller (W3C Trace Context).
//!
//! They are `tracing` spans with a target of their own, which the log never shows. Without a collector they are
//! disabled, and cost one check of a flag. Their fields are methods, codes and counts: no caller's input, no ID, no
//! secret.

#[cfg(feature = "otlp")]
mod propagation;

use http::{HeaderMap, HeaderValue};
use tracing::field::Empty;
use tracing::{Level, Span};

/// The target of all exported spans.
pub const SPANS: &str = "countersign_spans";
/// The header with the caller's trace and span ID (W3C Trace Context, 3.2).
pub const TRACEPARENT: &str = "traceparent";

/// A span of work that this process starts by itself.
#[macro_export]
macro_rules! span {
    ($name:literal $(, $($fields:tt)*)?) => {
        ::tracing::span!(target: $crate::trace::SPANS, ::tracing::Level::INFO, $name $(, $($fields)*)?)
    };
}

pub use crate::span;

/// A span of an inbound call; a child of the caller's span if the call has a `traceparent`. `method` is
/// `package.Service/Method`.
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

/// Records the call's gRPC code. Only codes that are the server's fault count as errors, by OpenTelemetry's semantic
/// conventions for RPC server spans.
pub(crate) fn ended(span: &Span, code: usize) {
    span.record("rpc.grpc.status_code", code);
    // Unknown, DeadlineExceeded, Unimplemented, Internal, Unavailable, DataLoss.
    if matches!(code, 2 | 4 | 12..=15) {
        span.record("otel.status_code", "ERROR");
    }
}

/// The `traceparent` of the current span, for outbound calls; `None` if the span is not exported.
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
