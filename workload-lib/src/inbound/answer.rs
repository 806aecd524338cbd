//! How a refusal looks on the wire: a problem document for HTTP, a status with details for gRPC.
//!
//! Nothing of what the callee found out in detail leaves it; that stands in its log.

use std::collections::BTreeMap;

use axum::body::Body;
use countersign_mesh::refusal::{ERROR_DOMAIN, REFUSAL_HEADER};
use countersign_mesh::{Carrier, Refusal};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::rpc_status::{self, ErrorInfo};

/// The body of a refused HTTP request (RFC 9457).
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    chain_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hop: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<String>,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<u64>,
}

/// The answer to a request that was refused.
pub(super) fn refused(refusal: &Refusal, carrier: Carrier) -> Response<Body> {
    match carrier {
        Carrier::Http => http(refusal),
        Carrier::Grpc => grpc(refusal),
    }
}

fn http(refusal: &Refusal) -> Response<Body> {
    let reason = refusal.reason();
    let problem = Problem {
        r#type: reason.type_uri(),
        title: reason.title(),
        status: reason.http_status(),
        reason: reason.as_str(),
        chain_id: refusal.chain_id().map(|id| id.to_string()),
        hop: refusal.hop(),
        limit: refusal.limit().map(ToString::to_string),
        retryable: refusal.is_retryable(),
        time: refusal.time().map(|time| time.as_secs()),
    };
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(reason.http_status()).unwrap_or(StatusCode::FORBIDDEN);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    headers.insert(
        HeaderName::from_static(REFUSAL_HEADER),
        HeaderValue::from_static(reason.as_str()),
    );
    if let Some(seconds) = refusal.retry_after_secs() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn grpc(refusal: &Refusal) -> Response<Body> {
    let reason = refusal.reason();
    let particulars = [
        ("retryable", Some(refusal.is_retryable().to_string())),
        ("chain_id", refusal.chain_id().map(|id| id.to_string())),
        ("hop", refusal.hop().map(|hop| hop.to_string())),
        ("limit", refusal.limit().map(ToString::to_string)),
        (
            "time",
            refusal.time().map(|time| time.as_secs().to_string()),
        ),
    ];
    let info = ErrorInfo {
        reason: reason.as_str().to_owned(),
        domain: ERROR_DOMAIN.to_owned(),
        metadata: particulars
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect::<BTreeMap<_, _>>(),
    };
    let code = rpc_status::code(reason.grpc_code());
    rpc_status::status(code, reason.title(), &info, refusal.retry_after()).into_http()
}
