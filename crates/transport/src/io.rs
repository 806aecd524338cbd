//! IO that ends when its connection is cut or a certificate on it expires.
//!
//! Each poll checks for that first. Under an HTTP/2 server this also ends hanging handlers and open streams, because
//! the error reaches all of them through the connection.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection::Ended;

/// IO that fails with [`io::ErrorKind::ConnectionAborted`] once its `end` future has completed.
pub struct CutIo<S> {
    inner: S,
    end: End,
}

enum End {
    Open(Pin<Box<dyn Future<Output = Ended> + Send + Sync>>),
    Over(Ended),
}

impl<S> CutIo<S> {
    /// `inner`, until `end` completes; see [`crate::connection::ended`].
    pub fn new(inner: S, end: impl Future<Output = Ended> + Send + Sync + 'static) -> Self {
        Self {
            inner,
            end: End::Open(Box::pin(end)),
        }
    }

    /// The IO inside.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let why = match &mut self.end {
            End::Over(why) => *why,
            End::Open(end) => match end.as_mut().poll(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(why) => why,
            },
        };
        self.end = End::Over(why);
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, why))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CutIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CutIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: fmt::Debug> fmt::Debug for CutIo<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CutIo")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
