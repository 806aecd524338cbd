//! A request body that can go out again, as long as the callee provably never saw the request.
//!
//! A stream that was refused (`REFUSED_STREAM`) or lies beyond the last one that a `GOAWAY` names was never processed
//! (RFC 9113, 8.7), but its body may already be on the way. So the first [`MAX_REPLAY`] bytes are kept until the
//! callee has answered; a body that is longer by then cannot go out again.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use crate::error::BoxError;

/// How many bytes of a request body are kept for going out again.
const MAX_REPLAY: usize = 64 * 1024;

enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

struct Source {
    body: Body,
    kept: Vec<Piece>,
    kept_bytes: usize,
    keeping: bool,
    whole: SizeHint,
    attempt: usize,
}

/// The body of one call, from which the body of each try is made.
#[derive(Clone)]
pub(super) struct Replay(Arc<Mutex<Source>>);

impl Replay {
    pub(super) fn new(body: Body) -> Self {
        let whole = body.size_hint();
        Self(Arc::new(Mutex::new(Source {
            body,
            kept: Vec::new(),
            kept_bytes: 0,
            keeping: true,
            whole,
            attempt: 0,
        })))
    }

    /// The body of the first try.
    pub(super) fn first(&self) -> Try {
        Try {
            source: Arc::clone(&self.0),
            attempt: 0,
            at: 0,
        }
    }

    /// The body of a further try, from the beginning; `None` once the beginning is gone. Ends the body of the last try.
    pub(super) fn again(&self) -> Option<Try> {
        let mut source = lock(&self.0);
        if !source.keeping {
            return None;
        }
        source.attempt += 1;
        Some(Try {
            source: Arc::clone(&self.0),
            attempt: source.attempt,
            at: 0,
        })
    }

    /// The callee has the request: nothing is kept any more.
    pub(super) fn settle(&self) {
        lock(&self.0).forget();
    }
}

impl Source {
    fn forget(&mut self) {
        self.keeping = false;
        self.kept = Vec::new();
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if !self.keeping {
            return;
        }
        if let Some(data) = frame.data_ref() {
            self.kept_bytes = self.kept_bytes.saturating_add(data.len());
            if self.kept_bytes > MAX_REPLAY {
                self.forget();
            } else {
                self.kept.push(Piece::Data(data.clone()));
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.kept.push(Piece::Trailers(trailers.clone()));
        }
    }
}

fn lock(source: &Mutex<Source>) -> std::sync::MutexGuard<'_, Source> {
    source.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The request body of one try.
pub(super) struct Try {
    source: Arc<Mutex<Source>>,
    attempt: usize,
    at: usize,
}

impl http_body::Body for Try {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut source = lock(&this.source);
        if source.attempt != this.attempt {
            return Poll::Ready(Some(Err(
                "the request went out again on another stream".into()
            )));
        }
        if source.keeping
            && let Some(piece) = source.kept.get(this.at)
        {
            this.at += 1;
            return Poll::Ready(Some(Ok(match piece {
                Piece::Data(data) => Frame::data(data.clone()),
                Piece::Trailers(trailers) => Frame::trailers(trailers.clone()),
            })));
        }
        let frame = std::task::ready!(Pin::new(&mut source.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            source.keep(frame);
            this.at += 1;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        let source = lock(&self.source);
        let replayed = !source.keeping || self.at >= source.kept.len();
        replayed && source.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let source = lock(&self.source);
        if self.at == 0 {
            source.whole
        } else {
            SizeHint::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_body_goes_out_again_from_its_beginning() {
        let replay = Replay::new(Body::from("task"));
        let mut first = replay.first();
        first.frame().await.unwrap().unwrap();
        let second = replay.again().unwrap();
        assert_eq!(second.size_hint().exact(), Some(4));
        assert_eq!(second.collect().await.unwrap().to_bytes(), "task");
        assert!(
            first.frame().await.unwrap().is_err(),
            "the first try ends when the second begins"
        );
    }

    #[tokio::test]
    async fn a_body_longer_than_is_kept_goes_out_once() {
        let replay = Replay::new(Body::from(vec![0; MAX_REPLAY + 1]));
        let mut first = replay.first();
        first.frame().await.unwrap().unwrap();
        assert!(replay.again().is_none());
    }

    #[tokio::test]
    async fn nothing_goes_out_again_once_the_callee_answered() {
        let replay = Replay::new(Body::from("task"));
        assert_eq!(replay.first().collect().await.unwrap().to_bytes(), "task");
        replay.settle();
        assert!(replay.again().is_none());
    }
}
