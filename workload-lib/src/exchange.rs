//! One exchange: a request and its answer, from the permit to the end of both bodies.
//!
//! The handler and both bodies hold on to the same [`Exchange`]; it ends when the last of them lets go, at the chain's
//! deadline, or when it is cut. An end before its time reaches the peer as `RST_STREAM` with `CANCEL`, or as a closed
//! connection under HTTP/1.1.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll, ready};

use bytes::Bytes;
use countersign_mesh::{Permit, Refusal};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::context::Current;
use crate::error::BoxError;

/// An exchange that was ended before its time.
#[derive(Debug, thiserror::Error)]
#[error("the exchange was ended: {why}")]
pub(crate) struct Cut {
    why: &'static str,
    // Found by hyper in the chain of sources: it makes the reset say CANCEL.
    #[source]
    reset: h2::Error,
}

impl Cut {
    fn new(why: &'static str) -> Self {
        Self {
            why,
            reset: h2::Error::from(h2::Reason::CANCEL),
        }
    }
}

/// One exchange. Its token is cancelled when it ends, for whatever reason.
#[derive(Debug)]
pub(crate) struct Exchange {
    over: CancellationToken,
    refused: OnceLock<Refusal>,
    deadline: Option<Instant>,
    /// The right to serve it; none on the caller's side.
    _permit: Option<Permit>,
}

impl Exchange {
    /// A permitted exchange on a connection, which ends at the latest when `connection` is cut or at `deadline`.
    pub(crate) fn inbound(
        permit: Permit,
        connection: &CancellationToken,
        deadline: Option<Instant>,
    ) -> Arc<Self> {
        let over = connection.child_token();
        Arc::new(Self {
            over,
            refused: OnceLock::new(),
            deadline,
            _permit: Some(permit),
        })
    }

    /// The caller's side of an exchange, which ends at the latest at `deadline`.
    pub(crate) fn outbound(deadline: Instant) -> Arc<Self> {
        let over = CancellationToken::new();
        Arc::new(Self {
            over,
            refused: OnceLock::new(),
            deadline: Some(deadline),
            _permit: None,
        })
    }

    /// The token that is cancelled at the end.
    pub(crate) fn over(&self) -> &CancellationToken {
        &self.over
    }

    /// When the exchange ends by itself.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Ends the exchange with a refusal, which the peer gets if the answer has not begun.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        // The first reason stands.
        drop(self.refused.set(refusal));
        self.over.cancel();
    }

    /// The refusal that ended the exchange.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        self.refused.get()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

pin_project! {
    /// A body that ends with its exchange, and is polled with the context of the exchange in place.
    pub(crate) struct ExchangeBody<B> {
        #[pin]
        body: B,
        #[pin]
        over: WaitForCancellationFutureOwned,
        #[pin]
        deadline: Option<Sleep>,
        current: Option<Current>,
        exchange: Option<Arc<Exchange>>,
    }
}

impl<B> ExchangeBody<B> {
    /// `current` is the context that the body's own code sees; `None` for bodies that come from the network.
    pub(crate) fn new(body: B, exchange: Arc<Exchange>, current: Option<Current>) -> Self {
        Self {
            body,
            over: exchange.over.clone().cancelled_owned(),
            deadline: exchange.deadline.map(tokio::time::sleep_until),
            current,
            exchange: Some(exchange),
        }
    }
}

impl<B> Body for ExchangeBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        if this.exchange.is_none() {
            return Poll::Ready(None);
        }
        if let Some(deadline) = this.deadline.as_mut().as_pin_mut()
            && deadline.poll(cx).is_ready()
        {
            *this.exchange = None;
            return Poll::Ready(Some(Err(Cut::new("its deadline has passed").into())));
        }
        if this.over.as_mut().poll(cx).is_ready() {
            *this.exchange = None;
            return Poll::Ready(Some(Err(Cut::new(
                "it was refused, or its connection ended",
            )
            .into())));
        }
        let frame = match this.current {
            Some(current) => ready!(current.sync_scope(|| this.body.poll_frame(cx))),
            None => ready!(this.body.poll_frame(cx)),
        };
        if frame.is_none() {
            *this.exchange = None;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
