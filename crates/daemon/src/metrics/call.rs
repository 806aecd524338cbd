//! A layer that counts and times the calls of gRPC services, by method and code, and makes a span of each for the
//! OpenTelemetry collector, if there is one.
//!
//! The series are looked up once for each method and code: a call costs a few atomic operations.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use http::{Extensions, HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use metrics::{Counter, Gauge, Histogram, Label};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};
use tracing::Span;

use super::Metric;
use crate::trace;

/// The label of unknown methods, and of codes that gRPC does not define.
const OTHER: &str = "other";
/// gRPC's codes in numeric order, and a last one for all others.
const CODES: [&str; 18] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
    OTHER,
];
const CANCELED: usize = 1;
const UNKNOWN: usize = 2;

/// The metrics of calls.
#[derive(Clone, Copy, Debug)]
pub struct CallNames {
    /// A counter with the labels `method` and `code`: calls that ended.
    pub total: Metric,
    /// A histogram with the label `method`: time to the first response. Streams may go on for days after that.
    pub seconds: Metric,
    /// A gauge with the label `method`: calls in progress.
    pub open: Metric,
}

/// The layer.
#[derive(Clone, Debug)]
pub struct CallMetrics {
    methods: Arc<[Method]>,
    left_out: fn(&Extensions) -> bool,
}

struct Method {
    /// `/package.Service/Method`; empty for all unknown ones.
    path: &'static str,
    names: CallNames,
    total: [OnceLock<Counter>; CODES.len()],
    seconds: OnceLock<Histogram>,
    open: OnceLock<Gauge>,
}

impl CallMetrics {
    /// Counts calls of these paths (`/package.Service/Method`), each on its own, and calls of all other paths together.
    #[must_use]
    pub fn new(names: CallNames, paths: impl IntoIterator<Item = &'static str>) -> Self {
        let mut paths: Vec<_> = paths.into_iter().chain([""]).collect();
        paths.sort_unstable();
        paths.dedup();
        let method = |path| Method {
            path,
            names,
            total: Default::default(),
            seconds: OnceLock::new(),
            open: OnceLock::new(),
        };
        Self {
            methods: paths.into_iter().map(method).collect(),
            left_out: |_| false,
        }
    }

    /// Excludes requests for which this predicate on their extensions is true.
    #[must_use]
    pub fn leaving_out(self, left_out: fn(&Extensions) -> bool) -> Self {
        Self { left_out, ..self }
    }

    fn begin<B>(&self, request: &Request<B>) -> Option<Call> {
        if (self.left_out)(request.extensions()) {
            return None;
        }
        let path = request.uri().path();
        // The empty path sorts first.
        let index = self
            .methods
            .binary_search_by(|method| method.path.cmp(path));
        let mut call = Call {
            methods: Arc::clone(&self.methods),
            index: index.unwrap_or_default(),
            began: Instant::now(),
            span: Span::none(),
            stage: Stage::Waiting,
        };
        if let Some(method) = call.method() {
            method.open().increment(1.0);
            call.span = trace::call(method.name(), request.headers());
        }
        Some(call)
    }
}

impl Method {
    fn name(&self) -> &'static str {
        match self.path.trim_start_matches('/') {
            "" => OTHER,
            name => name,
        }
    }

    fn label(&self) -> Label {
        Label::from_static_parts("method", self.name())
    }

    fn total(&self, code: usize) -> Option<&Counter> {
        let (counter, code) = (self.total.get(code)?, CODES.get(code)?);
        Some(counter.get_or_init(|| {
            let labels = [self.label(), Label::from_static_parts("code", code)];
            metrics::counter!(self.names.total.name, labels.iter())
        }))
    }

    fn seconds(&self) -> &Histogram {
        self.seconds
            .get_or_init(|| metrics::histogram!(self.names.seconds.name, [self.label()].iter()))
    }

    fn open(&self) -> &Gauge {
        self.open
            .get_or_init(|| metrics::gauge!(self.names.open.name, [self.label()].iter()))
    }
}

impl std::fmt::Debug for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.path)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// For the first answer.
    Waiting,
    Answering,
    Over,
}

/// One call. If it is dropped before its end, it counts as cancelled.
#[derive(Debug)]
struct Call {
    methods: Arc<[Method]>,
    index: usize,
    began: Instant,
    /// Ends with the first response, as the measured time does: a stream's span would be exported only days later.
    span: Span,
    stage: Stage,
}

impl Call {
    fn method(&self) -> Option<&Method> {
        self.methods.get(self.index)
    }

    fn answered(&mut self) {
        if self.stage != Stage::Waiting {
            return;
        }
        self.stage = Stage::Answering;
        if let Some(method) = self.method() {
            method.seconds().record(self.began.elapsed().as_secs_f64());
        }
        self.span = Span::none();
    }

    fn end(&mut self, code: usize) {
        if self.stage == Stage::Over {
            return;
        }
        trace::ended(&self.span, code);
        // A cancelled call got no response: its time says nothing about latency.
        if code != CANCELED {
            self.answered();
        }
        self.stage = Stage::Over;
        if let Some(method) = self.method() {
            method.open().decrement(1.0);
            if let Some(counter) = method.total(code) {
                counter.increment(1);
            }
        }
    }

    /// Ends the call if these headers or trailers have a `grpc-status`.
    fn end_by(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get("grpc-status") {
            let code = status.to_str().ok().and_then(|code| code.parse().ok());
            self.end(code.map_or(CODES.len() - 1, |code: usize| code.min(CODES.len() - 1)));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(CANCELED);
    }
}

impl<S> Layer<S> for CallMetrics {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Counting<S> {
        Counting {
            inner,
            metrics: self.clone(),
        }
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct Counting<S> {
    inner: S,
    metrics: CallMetrics,
}

impl<S, B, A> Service<Request<B>> for Counting<S>
where
    S: Service<Request<B>, Response = Response<A>>,
{
    type Response = Response<Counted<A>>;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = self.metrics.begin(&request);
        let span = call
            .as_ref()
            .map_or_else(Span::none, |call| call.span.clone());
        let inner = span.in_scope(|| self.inner.call(request));
        Answer { inner, call }
    }
}

pin_project! {
    /// The future of a response.
    pub struct Answer<F> {
        #[pin]
        inner: F,
        call: Option<Call>,
    }
}

impl<F, A, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<A>, E>>,
{
    type Output = Result<Response<Counted<A>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let span = this.call.as_ref().map(|call| call.span.clone());
        let answer = match span {
            Some(span) => ready!(span.in_scope(|| this.inner.poll(cx))),
            None => ready!(this.inner.poll(cx)),
        };
        let mut call = this.call.take();
        Poll::Ready(answer.map(|answer| {
            if let Some(call) = &mut call {
                // A Trailers-Only response carries its code in the headers (gRPC over HTTP/2).
                call.end_by(answer.headers());
            }
            answer.map(|inner| Counted { inner, call })
        }))
    }
}

pin_project! {
    /// The body of a response; its trailers end the call.
    pub struct Counted<A> {
        #[pin]
        inner: A,
        call: Option<Call>,
    }
}

impl<A: Body> Body for Counted<A> {
    type Data = A::Data;
    type Error = A::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<A::Data>, A::Error>>> {
        let this = self.project();
        let span = this.call.as_ref().map(|call| call.span.clone());
        let polled = match span {
            Some(span) => ready!(span.in_scope(|| this.inner.poll_frame(cx))),
            None => ready!(this.inner.poll_frame(cx)),
        };
        if let Some(call) = this.call {
            match &polled {
                Some(Ok(frame)) => match frame.trailers_ref() {
                    Some(trailers) => call.end_by(trailers),
                    None => call.answered(),
                },
                Some(Err(_)) | None => call.end(UNKNOWN),
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests;
