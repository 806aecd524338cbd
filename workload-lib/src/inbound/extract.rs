//! Extractors of axum: what a handler takes as an argument.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use super::peer::{PeerInfo, Permitted};
use crate::context::Context;

/// A handler wants a [`Context`], a [`Permitted`] or a [`PeerInfo`] that its request does not have. Answered with 500: the
/// inbound layer is missing, or policy allows the route without a chain but the handler needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the request has no {missing}: is the inbound layer in place, and does policy require a chain here?"
)]
pub struct NotPermitted {
    missing: &'static str,
}

impl IntoResponse for NotPermitted {
    fn into_response(self) -> Response {
        tracing::error!(error = %self, "A handler could not be called");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

/// Writes an extractor of a request extension.
macro_rules! from_extensions {
    ($($type:ty),+) => {$(
        impl<S: Sync> FromRequestParts<S> for $type {
            type Rejection = NotPermitted;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotPermitted> {
                let missing = stringify!($type);
                parts.extensions.get().cloned().ok_or(NotPermitted { missing })
            }
        }
    )+};
}

from_extensions!(Context, Permitted, PeerInfo);

impl<S: Sync> OptionalFromRequestParts<S> for Context {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(Self::from_extensions(&parts.extensions))
    }
}
