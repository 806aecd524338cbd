//! The bundle endpoint: serves this trust domain's bundle to any caller (SPIFFE Federation, section 5).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use countersign_identity::bundle::{Bundles as _, document};
use countersign_identity::{Bundle, TrustDomain};

use countersign_transport::error::Chain;

use crate::index::Index;

struct Source {
    index: Index,
    trust_domain: TrustDomain,
    refresh_hint: Duration,
}

/// `GET /` is answered with the current bundle, anything else with an error.
pub(crate) fn router(index: Index, trust_domain: TrustDomain, refresh_hint: Duration) -> Router {
    let source = Source {
        index,
        trust_domain,
        refresh_hint,
    };
    // Not a route: axum would answer HEAD as well, and other methods with a list of those that there are.
    Router::new().fallback(answer).with_state(Arc::new(source))
}

async fn answer(State(source): State<Arc<Source>>, method: Method, uri: Uri) -> Response {
    if method != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n");
    }
    if uri.path() != "/" {
        return plain(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    let Some(bundle) = source.index.bundle(source.trust_domain.as_str()) else {
        tracing::error!("The bundle endpoint can't answer: the trust domain has no bundle");
        return plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "500 the bundle is not there\n",
        );
    };
    let hinted = Bundle {
        refresh_hint: Some(source.refresh_hint),
        ..Bundle::clone(&bundle)
    };
    match document::write(&hinted) {
        Ok(json) => {
            let headers = [(header::CONTENT_TYPE, "application/json")];
            (headers, json).into_response()
        }
        Err(error) => {
            tracing::error!(
                error = %Chain(&error),
                "The bundle endpoint can't answer: the bundle can't be encoded"
            );
            plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "500 the bundle can't be written\n",
            )
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    (status, text).into_response()
}
