//! Calls through the layer, and what is on the page then.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use metrics_exporter_prometheus::PrometheusBuilder;
use tower::{ServiceExt as _, service_fn};

use super::*;

const NAMES: CallNames = CallNames {
    total: Metric::counter("calls_total", &["method", "code"], "Calls."),
    seconds: Metric::histogram("calls_seconds", &["method"], "Seconds."),
    open: Metric::gauge("calls_open", &["method"], "Open."),
};

fn trailers(code: &str) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert("grpc-status", code.parse().unwrap());
    map
}

fn layer() -> CallMetrics {
    CallMetrics::new(NAMES, ["/a.B/C", "/a.B/D"])
}

/// A page of what `calls` did.
fn page(calls: impl FnOnce()) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, calls);
    handle.render()
}

fn has(page: &str, lines: &[&str]) {
    for line in lines {
        assert!(
            page.lines().any(|l| l == *line),
            "{line} is not in:\n{page}"
        );
    }
}

fn request(path: &str) -> Request<()> {
    Request::builder().uri(path).body(()).unwrap()
}

/// Calls what answers with these headers and frames, and reads all of it.
fn call(layer: &CallMetrics, path: &str, headers: HeaderMap, frames: Vec<Frame<Bytes>>) {
    let service = layer.layer(service_fn(move |_: Request<()>| {
        let frames = futures::stream::iter(frames.clone_frames()).map(Ok::<_, Infallible>);
        let mut answer = Response::new(StreamBody::new(frames));
        *answer.headers_mut() = headers.clone();
        std::future::ready(Ok::<_, Infallible>(answer))
    }));
    let read = async {
        let mut body = service.oneshot(request(path)).await.unwrap().into_body();
        while body.frame().await.is_some() {}
    };
    read.now_or_never().unwrap();
}

trait CloneFrames {
    fn clone_frames(&self) -> Vec<Frame<Bytes>>;
}

impl CloneFrames for Vec<Frame<Bytes>> {
    fn clone_frames(&self) -> Vec<Frame<Bytes>> {
        let frame = |frame: &Frame<Bytes>| match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Frame::data(data.clone()),
            (None, trailers) => Frame::trailers(trailers.cloned().unwrap_or_default()),
        };
        self.iter().map(frame).collect()
    }
}

#[test]
fn a_call_is_counted_with_the_code_at_its_end() {
    let page = page(|| {
        let layer = layer();
        let data = || Frame::data(Bytes::from_static(b"x"));
        let ended = |code| vec![data(), Frame::trailers(trailers(code))];
        call(&layer, "/a.B/C", HeaderMap::new(), ended("0"));
        call(&layer, "/a.B/C", HeaderMap::new(), ended("7"));
        call(&layer, "/a.B/C", trailers("14"), Vec::new());
        call(&layer, "/a.B/D", HeaderMap::new(), vec![data()]);
        call(&layer, "/a.B/D", trailers("99"), Vec::new());
        call(&layer, "/whatever/you/send", trailers("12"), Vec::new());
    });
    has(
        &page,
        &[
            r#"calls_total{method="a.B/C",code="OK"} 1"#,
            r#"calls_total{method="a.B/C",code="PermissionDenied"} 1"#,
            r#"calls_total{method="a.B/C",code="Unavailable"} 1"#,
            r#"calls_total{method="a.B/D",code="Unknown"} 1"#,
            r#"calls_total{method="a.B/D",code="other"} 1"#,
            r#"calls_total{method="other",code="Unimplemented"} 1"#,
            r#"calls_seconds_count{method="a.B/C"} 3"#,
            r#"calls_open{method="a.B/C"} 0"#,
        ],
    );
    assert!(!page.contains("whatever"), "{page}");
}

#[test]
fn a_stream_is_timed_to_its_first_answer_and_open_to_its_end() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let layer = layer();
        let service = layer.layer(service_fn(|_: Request<()>| {
            let first = futures::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::new()))]);
            let frames = first.chain(futures::stream::pending());
            std::future::ready(Ok::<_, Infallible>(Response::new(StreamBody::new(frames))))
        }));
        let answer = service.oneshot(request("/a.B/C")).now_or_never().unwrap();
        let mut body = answer.unwrap().into_body();
        let seconds = r#"calls_seconds_count{method="a.B/C"} 1"#;
        assert!(!handle.render().contains(seconds));
        body.frame().now_or_never().unwrap();
        has(
            &handle.render(),
            &[seconds, r#"calls_open{method="a.B/C"} 1"#],
        );
        drop(body);
        has(
            &handle.render(),
            &[
                seconds,
                r#"calls_open{method="a.B/C"} 0"#,
                r#"calls_total{method="a.B/C",code="Canceled"} 1"#,
            ],
        );
    });
}

#[test]
fn what_is_left_out_is_not_counted() {
    let page = page(|| {
        let layer = layer().leaving_out(|extensions| extensions.get::<u8>().is_some());
        let service = layer.layer(service_fn(|_: Request<()>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
        }));
        let mut request = request("/a.B/C");
        request.extensions_mut().insert(7_u8);
        service.oneshot(request).now_or_never().unwrap().unwrap();
    });
    assert_eq!(page, "");
}

#[test]
fn a_caller_that_does_not_wait_is_counted_as_one_that_went() {
    let page = page(|| {
        let service = layer().layer(service_fn(|_: Request<()>| {
            std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        }));
        assert!(service.oneshot(request("/a.B/C")).now_or_never().is_none());
    });
    has(
        &page,
        &[
            r#"calls_total{method="a.B/C",code="Canceled"} 1"#,
            r#"calls_open{method="a.B/C"} 0"#,
        ],
    );
    assert!(!page.contains("calls_seconds"), "{page}");
}
