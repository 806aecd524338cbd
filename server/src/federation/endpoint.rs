//! The bundle endpoint: this trust domain's bundle, for anybody who asks (SPIFFE Federation, section 5).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use countersign_identity::bundle::{Bundles as _, document};
use countersign_identity::{Bundle, TrustDomain};

use crate::registry::Registry;

struct Source {
    registry: Registry,
    trust_domain: TrustDomain,
    refresh_hint: Duration,
}

/// What is served: `GET /` is the bundle as it is now, anything else an error.
pub fn router(registry: Registry, trust_domain: TrustDomain, refresh_hint: Duration) -> Router {
    let source = Source {
        registry,
        trust_domain,
        refresh_hint,
    };
    // Not a route: axum would answer HEAD as well, and other methods with a list of those that there are.
    Router::new().fallback(answer).with_state(Arc::new(source))
}

async fn answer(State(source): State<Arc<Source>>, method: Method, uri: Uri) -> Response {
    if method != Method::GET {
        return told(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n");
    }
    if uri.path() != "/" {
        return told(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    let Some(bundle) = source.registry.bundle(source.trust_domain.as_str()) else {
        tracing::error!("Foreign trust domains can't be served: the bundle is not there");
        return told(
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
            tracing::error!(%error, "Foreign trust domains can't be served: the bundle can't be written");
            told(
                StatusCode::INTERNAL_SERVER_ERROR,
                "500 the bundle can't be written\n",
            )
        }
    }
}

fn told(status: StatusCode, text: &'static str) -> Response {
    (status, text).into_response()
}
