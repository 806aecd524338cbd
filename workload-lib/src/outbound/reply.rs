//! Reads a callee's refusal. Its words are logged, bounded, and go no further: they could carry instructions.

use std::time::Duration;

use crate::error::{Refused, RefusedBy};
use crate::event::Event;
use crate::mesh::Mesh;
use crate::rpc_status;
use axum::body::Body;
use countersign_identity::SpiffeId;
use countersign_mesh::Reason;
use countersign_mesh::refusal::{ERROR_DOMAIN, REFUSAL_HEADER, loggable};
use http::HeaderMap;
use http::header::RETRY_AFTER;
use http::response::Parts;
use http_body_util::{BodyExt as _, Limited};

/// How much of a refusal's body is read for the log, in bytes.
const MAX_PROBLEM: usize = 4 * 1024;
/// How long the callee may take to send it.
const PROBLEM_WAIT: Duration = Duration::from_secs(1);

/// A callee that names a longer delay is taken to mean this one.
const LONGEST_DELAY: Duration = Duration::from_secs(24 * 3600);

/// The refusal that the head of an answer is, if it is one.
pub(super) fn refusal(head: &Parts) -> Option<Refused> {
    if let Some(value) = head.headers.get(REFUSAL_HEADER) {
        let reason = value
            .to_str()
            .map_or(Reason::PolicyDenied, Reason::from_wire);
        return Some(refused(reason, retry_after(&head.headers)));
    }
    let status = tonic::Status::from_header_map(&head.headers)?;
    let (info, retry_after) =
        rpc_status::details(&status).filter(|(info, _)| info.domain == ERROR_DOMAIN)?;
    Some(refused(Reason::from_wire(&info.reason), retry_after))
}

fn refused(reason: Reason, retry_after: Option<Duration>) -> Refused {
    let retry_after = retry_after.map(|delay| delay.min(LONGEST_DELAY));
    Refused::new(reason, RefusedBy::Callee, retry_after)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .parse()
        .ok()
        .map(Duration::from_secs)
}

/// Tells the log and the events what the callee says about its refusal.
pub(super) async fn report(
    mesh: &Mesh,
    callee: &SpiffeId,
    refused: &Refused,
    head: &Parts,
    body: Body,
) {
    let text = match tonic::Status::from_header_map(&head.headers) {
        Some(status) => status.message().to_owned(),
        None => {
            let body =
                tokio::time::timeout(PROBLEM_WAIT, Limited::new(body, MAX_PROBLEM).collect()).await;
            let bytes = body
                .ok()
                .and_then(Result::ok)
                .map(http_body_util::Collected::to_bytes);
            String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
        }
    };
    let detail = loggable(&text);
    tracing::warn!(%callee, reason = %refused.reason(), said = detail, "The callee refused the call");
    mesh.event_log().write(Event::OwnCallRefused {
        callee: Some(callee.clone()),
        reason: refused.reason(),
        detail,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callee_cannot_name_a_delay_beyond_any_clock() {
        let response = http::Response::builder()
            .header(REFUSAL_HEADER, "rate_limited")
            .header(RETRY_AFTER, u64::MAX.to_string())
            .body(())
            .unwrap();
        let refused = refusal(&response.into_parts().0).unwrap();
        assert_eq!(refused.retry_after(), Some(LONGEST_DELAY));
    }
}
