//! JWT-SVIDs: fetching them, the bundles that verify them, and validating them for callers.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use countersign_identity::bundle::document;
use countersign_identity::jwt::{InvalidJwt, Jwt, LEEWAY};
use countersign_identity::{Bundle, BundleSet, SelectorSet, SpiffeId};
use countersign_proto::spiffe::workload::{
    JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse,
};
use countersign_transport::error::Chain;
use tonic::{Request, Status};

use super::super::caller::{check_security_header, no_identity};
use super::super::rates::Method;
use super::super::stream::Next;
use super::{WorkloadApi, may_not_verify};
use crate::entry::AuthorizedEntry;
use crate::limits;
use crate::sync::{Snapshot, Subscription};

/// Claims of foreign tokens that are always passed on.
const FOREIGN_CLAIMS: [&str; 3] = ["sub", "exp", "aud"];

/// Checks the audiences of a request.
///
/// # Errors
/// INVALID_ARGUMENT: none, or more than the server would put into a token.
pub(in crate::api) fn check_audience(audience: &[String]) -> Result<(), Status> {
    if audience.is_empty() {
        return Err(Status::invalid_argument("audience must be specified"));
    }
    let length: usize = audience.iter().map(String::len).sum();
    if audience.len() > limits::AUDIENCES || length > limits::AUDIENCE_BYTES {
        return Err(Status::invalid_argument(format!(
            "a JWT-SVID is for at most {} audiences, of {} bytes together: ask for fewer",
            limits::AUDIENCES,
            limits::AUDIENCE_BYTES
        )));
    }
    Ok(())
}

/// A JWK set per trust domain that the caller may verify.
pub(super) fn bundles(
    snapshot: &Snapshot,
    subscription: &Subscription,
    allow_unauthenticated: bool,
) -> Next<JwtBundlesResponse> {
    if may_not_verify(snapshot, subscription, allow_unauthenticated) {
        return Next::End(no_identity(snapshot));
    }
    let bundles = known_bundles(snapshot, subscription.selectors())
        .filter_map(|bundle| Some((bundle.trust_domain.id().to_string(), jwks(bundle)?)))
        .collect();
    Next::Send(JwtBundlesResponse { bundles })
}

/// The JWT keys of a bundle as a plain JWK set; `None` if one of them can't be encoded as a JWK.
pub(in crate::api) fn jwks(bundle: &Bundle) -> Option<Bytes> {
    document::jwks(bundle)
        .inspect_err(|error| {
            tracing::warn!(trust_domain = %bundle.trust_domain, error = %Chain(error), "JWT bundle left out");
        })
        .ok()
        .map(Bytes::from)
}

/// The own bundle, and those of foreign trust domains that the caller's entries federate with.
fn known_bundles<'a>(
    snapshot: &'a Snapshot,
    selectors: &SelectorSet,
) -> impl Iterator<Item = &'a Arc<Bundle>> + use<'a> {
    let foreign = snapshot.federated_bundles(selectors);
    std::iter::once(snapshot.own_bundle()).chain(foreign)
}

impl WorkloadApi {
    pub(super) async fn jwt_svids_for(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<JwtsvidResponse, Status> {
        check_security_header(request.metadata())?;
        check_audience(&request.get_ref().audience)?;
        let wanted = wanted_id(&request.get_ref().spiffe_id)?;
        let admitted = self.callers.admit(&request, Method::JwtSvid).await?;
        let audience = request.into_inner().audience;
        let snapshot = admitted.snapshot()?;
        let entries: Vec<Arc<AuthorizedEntry>> = snapshot
            .one_per_hint(admitted.subscription.selectors())
            .into_iter()
            .filter(|entry| wanted.as_ref().is_none_or(|id| entry.spiffe_id == *id))
            .collect();
        if entries.is_empty() {
            return Err(no_identity(&snapshot));
        }
        let fetches = entries
            .iter()
            .map(|entry| self.jwt_svid(entry, &audience, admitted.uid));
        let svids = futures::future::try_join_all(fetches).await?;
        Ok(JwtsvidResponse { svids })
    }

    async fn jwt_svid(
        &self,
        entry: &AuthorizedEntry,
        audience: &[String],
        uid: u32,
    ) -> Result<Jwtsvid, Status> {
        let svid = self.jwt_svids.get(entry, audience, uid).await;
        let svid = svid.map_err(|error| not_fetched(entry, &error))?;
        Ok(Jwtsvid {
            spiffe_id: svid.id.to_string(),
            svid: svid.token.to_string(),
            hint: entry.hint.clone(),
        })
    }

    pub(super) async fn validated(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<ValidateJwtsvidResponse, Status> {
        check_security_header(request.metadata())?;
        let ValidateJwtsvidRequest { audience, svid } = request.get_ref();
        if audience.is_empty() {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if svid.is_empty() {
            return Err(Status::invalid_argument("svid must be specified"));
        }
        let admitted = self.callers.admit(&request, None).await?;
        let ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        let snapshot = admitted.snapshot()?;
        let mut bundles = BundleSet::default();
        for bundle in known_bundles(&snapshot, admitted.subscription.selectors()) {
            bundles.insert(Arc::clone(bundle));
        }
        let verified = countersign_identity::jwt::verify_jwt(
            &svid,
            &bundles,
            &[&audience],
            self.clock.now(),
            LEEWAY,
        );
        let verified = verified.map_err(|error| refused(&svid, &error))?;
        let mut claims = verified.claims;
        if !verified.id.is_member_of(snapshot.trust_domain()) {
            let allowed = &self.verifiers.foreign_claims;
            claims.retain(|name, _| is_told(name, allowed));
        }
        // RFC 7519 has one text for one audience; callers always get a list.
        if let Some(one @ serde_json::Value::String(_)) = claims.get_mut("aud") {
            *one = serde_json::Value::Array(vec![one.take()]);
        }
        Ok(ValidateJwtsvidResponse {
            spiffe_id: verified.id.to_string(),
            claims: Some(fields(claims)),
        })
    }
}

fn wanted_id(text: &str) -> Result<Option<SpiffeId>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let id = SpiffeId::parse(text).map_err(|error| {
        Status::invalid_argument(format!("invalid requested SPIFFE ID: {error}"))
    })?;
    Ok(Some(id))
}

/// Any cause may be transient: clients retry after UNAVAILABLE.
pub(in crate::api) fn not_fetched(entry: &AuthorizedEntry, error: &crate::jwt::JwtError) -> Status {
    tracing::warn!(spiffe_id = %entry.spiffe_id, error = %Chain(error), "Could not fetch a JWT-SVID");
    Status::unavailable(format!("could not fetch JWT-SVID: {}", Chain(error)))
}

fn refused(token: &str, error: &InvalidJwt) -> Status {
    let id = Jwt::parse(token).map(|jwt| jwt.id().to_string()).ok();
    tracing::debug!(spiffe_id = id, error = %Chain(error), "JWT-SVID refused");
    Status::invalid_argument(error.to_string())
}

fn is_told(claim: &str, allowed: &BTreeSet<String>) -> bool {
    FOREIGN_CLAIMS.contains(&claim) || allowed.contains(claim)
}

fn fields(object: serde_json::Map<String, serde_json::Value>) -> prost_types::Struct {
    let fields = object.into_iter().map(|(name, value)| (name, field(value)));
    prost_types::Struct {
        fields: fields.collect(),
    }
}

fn field(value: serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    use serde_json::Value;

    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        // `google.protobuf.Value` has only doubles: integers beyond 2^53 lose precision, as in JavaScript.
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => Kind::ListValue(prost_types::ListValue {
            values: values.into_iter().map(field).collect(),
        }),
        Value::Object(object) => Kind::StructValue(fields(object)),
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audiences_are_some_and_not_too_many() {
        let ask = |audience: &[&str]| {
            let audience: Vec<String> = audience.iter().map(|a| (*a).to_owned()).collect();
            check_audience(&audience)
        };
        assert_eq!(
            ask(&[]).unwrap_err().message(),
            "audience must be specified"
        );
        assert!(ask(&["a", "b"]).is_ok());
        let long = "a".repeat(limits::AUDIENCE_BYTES + 1);
        let status = ask(&[&long]).unwrap_err();
        assert!(status.message().contains("8192 bytes"), "{status}");
        assert!(ask(&vec!["a"; limits::AUDIENCES + 1]).is_err());
    }

    #[test]
    fn claims_keep_their_types() {
        let json = serde_json::json!({"a": null, "b": [true, 1.5, "x", {"c": []}]});
        let serde_json::Value::Object(object) = json else {
            unreachable!()
        };
        let text = format!("{:?}", fields(object));
        for part in [
            "NullValue",
            "BoolValue(true)",
            "NumberValue(1.5)",
            "StructValue",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
