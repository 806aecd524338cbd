//! The authorities in the trust domain's bundle: added before they sign, removed long after.

use std::time::Duration;

use countersign_identity::bundle::{JwtAuthority, X509Authority};
use countersign_identity::{Bundle, UnixTime};
use countersign_store::BundleChange;

use crate::authority::journal::Kind;
use crate::authority::schedule::{Validity, prune_at};
use crate::upstream::UpstreamBundle;

/// Authorities to publish.
#[derive(Clone, Debug, Default)]
pub(super) struct Publication {
    /// Roots for X.509-SVIDs.
    pub(super) x509: Vec<X509Authority>,
    /// Keys for JWT-SVIDs.
    pub(super) jwt: Vec<JwtAuthority>,
}

impl Publication {
    /// Adds the authorities that the bundle lacks. Those present keep their tainted flag.
    pub(super) fn add_to(&self, bundle: &mut Bundle) -> BundleChange {
        let mut change = BundleChange::Unchanged;
        for authority in &self.x509 {
            let is_it = |present: &X509Authority| present.der() == authority.der();
            if !bundle.x509_authorities.iter().any(is_it) {
                bundle.x509_authorities.push(authority.clone());
                change = BundleChange::Changed;
            }
        }
        for authority in &self.jwt {
            let is_it = |present: &JwtAuthority| present.key_id == authority.key_id;
            if !bundle.jwt_authorities.iter().any(is_it) {
                bundle.jwt_authorities.push(authority.clone());
                change = BundleChange::Changed;
            }
        }
        change
    }
}

/// Replaces the bundle by the upstream server's, plus the authorities that this server itself still needs (decision 0013).
/// A tainted authority stays tainted, whatever the upstream says.
pub(super) fn mirror(
    bundle: &mut Bundle,
    upstream: &UpstreamBundle,
    own: &Publication,
) -> BundleChange {
    let x509 = mirrored(
        &bundle.x509_authorities,
        upstream.x509.iter().chain(&own.x509),
        |one, other| one.der() == other.der(),
        |wanted, present| wanted.with_tainted(wanted.is_tainted() || present.is_tainted()),
    );
    let jwt = mirrored(
        &bundle.jwt_authorities,
        upstream.jwt.iter().chain(&own.jwt),
        |one, other| one.key_id == other.key_id,
        |wanted, present| JwtAuthority {
            tainted: wanted.tainted || present.tainted,
            ..wanted.clone()
        },
    );
    if x509 == bundle.x509_authorities && jwt == bundle.jwt_authorities {
        return BundleChange::Unchanged;
    }
    bundle.x509_authorities = x509;
    bundle.jwt_authorities = jwt;
    BundleChange::Changed
}

/// The wanted authorities without duplicates: those already present in their present order, then the new ones.
fn mirrored<'a, T: Clone + 'a>(
    present: &[T],
    wanted: impl Iterator<Item = &'a T>,
    same: impl Fn(&T, &T) -> bool,
    merge: impl Fn(&T, &T) -> T,
) -> Vec<T> {
    let mut once: Vec<&T> = Vec::new();
    for one in wanted {
        if !once.iter().any(|other| same(one, other)) {
            once.push(one);
        }
    }
    let kept = present.iter().filter_map(|there| {
        let wanted = once.iter().find(|one| same(one, there))?;
        Some(merge(wanted, there))
    });
    let mut all: Vec<T> = kept.collect();
    for one in once {
        if !present.iter().any(|there| same(one, there)) {
            all.push(one.clone());
        }
    }
    all
}

/// Removes authorities that expired long ago, but never the last of a kind: to peers an empty bundle means that the trust
/// domain withdrew all its authorities.
///
/// The bundle doesn't record when a JWT key was made; `ca_ttl` is used as its lifetime (wire contract, E.4).
pub(super) fn prune(bundle: &mut Bundle, ca_ttl: Duration, now: UnixTime) -> BundleChange {
    let x509 = keep(&bundle.x509_authorities, |a| validity(a).prune_at() > now);
    let jwt = keep(&bundle.jwt_authorities, |a| {
        a.expires_at.is_none_or(|end| prune_at(end, ca_ttl) > now)
    });
    if x509.is_none() && jwt.is_none() {
        return BundleChange::Unchanged;
    }
    if let Some(kept) = x509 {
        bundle.x509_authorities = kept;
    }
    if let Some(kept) = jwt {
        bundle.jwt_authorities = kept;
    }
    BundleChange::Changed
}

/// The wanted items. `None` if nothing would change, or nothing would be left.
fn keep<T: Clone>(all: &[T], wanted: impl Fn(&T) -> bool) -> Option<Vec<T>> {
    let kept: Vec<T> = all.iter().filter(|a| wanted(a)).cloned().collect();
    (!kept.is_empty() && kept.len() < all.len()).then_some(kept)
}

/// When an X.509 authority is valid.
pub(super) fn validity(authority: &X509Authority) -> Validity {
    Validity {
        not_before: authority.not_before(),
        not_after: authority.not_after(),
    }
}

/// Whether an authority of the bundle is tainted; none if the bundle does not have it.
pub(super) fn is_tainted(bundle: &Bundle, kind: Kind, id: &str) -> Option<bool> {
    match kind {
        Kind::X509 => {
            let mut authorities = bundle.x509_authorities.iter();
            let found = authorities.find(|a| a.authority_id() == id);
            found.map(X509Authority::is_tainted)
        }
        Kind::Jwt => {
            let mut authorities = bundle.jwt_authorities.iter();
            authorities.find(|a| a.key_id == id).map(|a| a.tainted)
        }
    }
}

/// Marks an authority as tainted.
pub(super) fn taint(bundle: &mut Bundle, kind: Kind, id: &str) -> BundleChange {
    if is_tainted(bundle, kind, id) != Some(false) {
        return BundleChange::Unchanged;
    }
    match kind {
        Kind::X509 => {
            for authority in &mut bundle.x509_authorities {
                if authority.authority_id() == id {
                    *authority = authority.with_tainted(true);
                }
            }
        }
        Kind::Jwt => {
            for authority in &mut bundle.jwt_authorities {
                authority.tainted |= authority.key_id == id;
            }
        }
    }
    BundleChange::Changed
}

/// Takes an authority out.
pub(super) fn remove(bundle: &mut Bundle, kind: Kind, id: &str) -> BundleChange {
    if is_tainted(bundle, kind, id).is_none() {
        return BundleChange::Unchanged;
    }
    match kind {
        Kind::X509 => bundle.x509_authorities.retain(|a| a.authority_id() != id),
        Kind::Jwt => bundle.jwt_authorities.retain(|a| a.key_id != id),
    }
    BundleChange::Changed
}
