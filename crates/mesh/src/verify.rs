//! Verifies the signatures of links and the certificates of their keys.
//!
//! `docs/call-chains.md`, section 3 (step 8) and section 4. Certificates are opened here for the first time, and only
//! those that a link of this very chain asks for.

mod cache;

use std::ops::RangeInclusive;
use std::sync::Arc;

use countersign_identity::bundle::Bundles;
use countersign_identity::verify::{Leaf, PeerError, verify_peer, verify_svid};
use countersign_identity::{SpiffeId, UnixTime};
use rustls_pki_types::CertificateDer;

pub(crate) use cache::{Caches, Epoch, KnownLeaf};

use crate::chain::{CertSet, Chain, Link, LinkKey, NO_LINKS, PrefixHash};
use crate::limits::{CERTIFICATE_SLACK, PeerState, Presented};
use crate::refusal::{Reason, Refusal};

/// Why a link's signature does not count.
#[derive(Debug, thiserror::Error)]
enum LinkFault {
    #[error("the signature does not hold")]
    Signature,
    #[error("the connection's key cannot sign links")]
    ConnectionKey,
    #[error("there is no bundle of trust domain {trust_domain}")]
    Bundle { trust_domain: String },
    #[error("no certificate came along")]
    Certificate,
    #[error("the certificate was not valid when the link was made")]
    Validity,
    #[error(transparent)]
    Svid(PeerError),
    #[error("the certificate's key is not on P-256 or P-384")]
    Curve,
}

/// Whether the signature of a last link was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastSignature {
    Checked,
    Waits,
}

/// Checks a peer's own leaf under the bundle that its trust domain has now. TLS did so in the handshake; it is done again
/// once an authority has been removed, since a connection may be older than that.
pub(crate) fn check_peer(
    caches: &Caches,
    bundles: &dyn Bundles,
    (id, presented): (&SpiffeId, &Presented),
    owner: &Arc<PeerState>,
    now: u64,
) -> Result<(), PeerError> {
    let epoch = caches.epoch();
    let known = || caches.leaf(id, presented.kid);
    if epoch.is_first() || known().is_some_and(|leaf| leaf.verified.contains(&now)) {
        return Ok(());
    }
    let verify = |at: u64| verify_peer(&presented.chain, bundles, UnixTime::from_secs(at));
    let leaf = verify(now)?;
    if let Some(key) = LinkKey::from_spki(&leaf.spki) {
        let validity = leaf.not_before.as_secs()..=leaf.not_after.as_secs();
        let whole = verify(*validity.end()).is_ok();
        let end = if whole { *validity.end() } else { now };
        let known = KnownLeaf {
            key,
            validity,
            verified: now..=end,
        };
        caches.add_leaf(epoch, (&leaf.id, leaf.kid), &Arc::new(known), owner);
    }
    Ok(())
}

/// A chain whose signatures are to be checked, with the sources of its signers' keys.
pub(crate) struct Verification<'a> {
    pub(crate) caches: &'a Caches,
    pub(crate) bundles: &'a dyn Bundles,
    pub(crate) chain: &'a Chain,
    /// The hashes over the earlier links: p(1) to p(n-1).
    pub(crate) prefixes: &'a [PrefixHash],
    pub(crate) certs: Option<&'a CertSet>,
    pub(crate) presented: &'a Presented,
    /// Who pays for what enters the caches.
    pub(crate) peer: &'a Arc<PeerState>,
    /// When verified prefixes are of no use any more, in Unix seconds.
    pub(crate) until: u64,
    pub(crate) now: u64,
    /// Whether the last signature may wait if the connection proves who speaks.
    pub(crate) last_may_wait: bool,
}

/// Where the key of a link comes from.
enum Source<'a> {
    /// The connection itself.
    Connection,
    /// A certificate that was verified before, for the time of this link.
    Known(Arc<KnownLeaf>),
    /// Certificates of this ID and key that came along.
    Given(Vec<&'a Opened<'a>>),
}

/// A leaf that came along, opened.
struct Opened<'a> {
    der: CertificateDer<'a>,
    leaf: Leaf,
}

impl Verification<'_> {
    /// Step 8: first every key, then every certificate and signature.
    pub(crate) fn run(&self) -> Result<LastSignature, Refusal> {
        let known = self.known_prefix();
        let last = self.chain.links().len().saturating_sub(1);
        let last_waits = self.last_may_wait && self.chain.last_kid() == Some(self.presented.kid);
        let end = if last_waits { last } else { last + 1 };
        if known < end {
            self.check(known, end, last)?;
        }
        Ok(if last_waits {
            LastSignature::Waits
        } else {
            LastSignature::Checked
        })
    }

    /// How many links were checked before, the longest such prefix of the earlier ones.
    fn known_prefix(&self) -> usize {
        let longest = self
            .prefixes
            .iter()
            .rposition(|prefix| self.caches.has_prefix(prefix));
        longest.map_or(0, |at| at + 1)
    }

    fn check(&self, known: usize, end: usize, last: usize) -> Result<(), Refusal> {
        // Read before the bundles, so that what is verified under a bundle that changes meanwhile is not remembered.
        let epoch = self.caches.epoch();
        let mut opened = None;
        let needs_leaves = (known..end).any(|i| self.cached(i, last).is_none());
        if needs_leaves {
            opened = self.certs.map(open);
        }
        let opened = opened.unwrap_or_default();
        let mut sources = Vec::with_capacity(end - known);
        // Every key before the first signature: each check of a step runs over all links (section 3).
        for i in known..end {
            sources.push(self.source(i, last, &opened)?);
        }
        for (i, source) in (known..end).zip(sources) {
            self.check_link(i, last, &source, epoch)?;
        }
        // The last link's prefix stays out: each call has its own, and it may not have been checked yet.
        let earlier = end.min(last);
        for (i, prefix) in self.prefixes.iter().enumerate().take(earlier).skip(known) {
            let signers = (0..=i)
                .filter_map(|i| self.chain.signer(i))
                .cloned()
                .collect();
            self.caches
                .add_prefix(epoch, *prefix, self.until, signers, self.peer);
        }
        Ok(())
    }

    /// When the leaf of a link has to be valid, and by how much clocks may differ: for the last link, whose signer is
    /// there, now.
    fn time_of(&self, index: usize, last: usize, link: &Link) -> (u64, u64) {
        if index == last {
            (self.now, 0)
        } else {
            (link.claims.iat, CERTIFICATE_SLACK)
        }
    }

    fn cached(&self, index: usize, last: usize) -> Option<Source<'static>> {
        let (link, signer) = (self.chain.links().get(index)?, self.chain.signer(index)?);
        if index == last && link.kid == self.presented.kid {
            return Some(Source::Connection);
        }
        let leaf = self.caches.leaf(signer, link.kid)?;
        let at = within(&leaf.validity, self.time_of(index, last, link))?;
        leaf.verified.contains(&at).then_some(Source::Known(leaf))
    }

    fn source<'a>(
        &self,
        index: usize,
        last: usize,
        opened: &'a [Opened<'a>],
    ) -> Result<Source<'a>, Refusal> {
        if let Some(source) = self.cached(index, last) {
            return Ok(source);
        }
        let (link, signer) = self.link(index)?;
        let given: Vec<_> = opened
            .iter()
            .filter(|given| given.leaf.kid == link.kid && given.leaf.id == *signer)
            .collect();
        if given.is_empty() {
            let detail = format!(
                "no certificate of {signer} with key {} came along for link {}",
                link.kid,
                index + 1
            );
            return Err(Refusal::new(Reason::ChainKeyUnknown, detail));
        }
        Ok(Source::Given(given))
    }

    fn link(&self, index: usize) -> Result<(&Link, &SpiffeId), Refusal> {
        let parts = self.chain.links().get(index).zip(self.chain.signer(index));
        parts.ok_or_else(|| Refusal::new(Reason::ChainMalformed, "the chain has no such link"))
    }

    fn check_link(
        &self,
        index: usize,
        last: usize,
        source: &Source<'_>,
        epoch: Epoch,
    ) -> Result<(), Refusal> {
        let (link, signer) = self.link(index)?;
        let before = before(self.prefixes, index);
        let holds = |key: &LinkKey| {
            let message = self.chain.to_be_signed(index, &before);
            key.verifies(link.algorithm, &message, self.chain.signature(index))
        };
        let result = match source {
            Source::Connection => match self.presented.key() {
                Some(key) if holds(key) => Ok(()),
                Some(_) => Err(LinkFault::Signature),
                None => Err(LinkFault::ConnectionKey),
            },
            Source::Known(leaf) if holds(&leaf.key) => Ok(()),
            Source::Known(_) => Err(LinkFault::Signature),
            Source::Given(given) => {
                let at = self.time_of(index, last, link);
                self.first_valid(given, signer, at).and_then(|leaf| {
                    if !holds(&leaf.key) {
                        return Err(LinkFault::Signature);
                    }
                    self.caches
                        .add_leaf(epoch, (signer, link.kid), &leaf, self.peer);
                    Ok(())
                })
            }
        };
        result.map_err(|why| {
            Refusal::new(
                Reason::ChainSignatureInvalid,
                format!("link {} of {signer}: {why}", index + 1),
            )
        })
    }

    /// The first of these certificates that was a valid X509-SVID at that time.
    fn first_valid(
        &self,
        given: &[&Opened<'_>],
        signer: &SpiffeId,
        at: (u64, u64),
    ) -> Result<Arc<KnownLeaf>, LinkFault> {
        let bundle = self
            .bundles
            .bundle_of(signer)
            .ok_or_else(|| LinkFault::Bundle {
                trust_domain: signer.trust_domain_name().to_owned(),
            })?;
        let intermediates: Vec<_> = self
            .certs
            .into_iter()
            .flat_map(CertSet::intermediates)
            .collect();
        let mut why = LinkFault::Certificate;
        for Opened { der, leaf } in given {
            let validity = leaf.not_before.as_secs()..=leaf.not_after.as_secs();
            let Some(at) = within(&validity, at) else {
                why = LinkFault::Validity;
                continue;
            };
            let verify =
                |at: u64| verify_svid(der, &intermediates, &bundle, UnixTime::from_secs(at));
            if let Err(error) = verify(at) {
                why = LinkFault::Svid(error);
                continue;
            }
            let Some(key) = LinkKey::from_spki(&leaf.spki) else {
                why = LinkFault::Curve;
                continue;
            };
            // Validity of a path has no gaps, so with both ends everything between is verified too.
            let end = if verify(*validity.end()).is_ok() {
                *validity.end()
            } else {
                at
            };
            return Ok(Arc::new(KnownLeaf {
                key,
                validity,
                verified: at..=end,
            }));
        }
        Err(why)
    }
}

/// The hash over all links before the one at `index`.
pub(crate) fn before(prefixes: &[PrefixHash], index: usize) -> PrefixHash {
    index
        .checked_sub(1)
        .and_then(|at| prefixes.get(at))
        .copied()
        .unwrap_or(NO_LINKS)
}

/// The moment of a validity that is nearest to `at`; `None` if `at` lies further outside than `slack`.
fn within(validity: &RangeInclusive<u64>, (at, slack): (u64, u64)) -> Option<u64> {
    let (start, end) = (*validity.start(), *validity.end());
    let near = start.saturating_sub(slack)..=end.saturating_add(slack);
    (start <= end && near.contains(&at)).then(|| at.clamp(start, end))
}

fn open(certs: &CertSet) -> Vec<Opened<'_>> {
    certs
        .leaves()
        .filter_map(|der| Leaf::parse(&der).ok().map(|leaf| Opened { der, leaf }))
        .collect()
}
