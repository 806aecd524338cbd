//! The identity of this process as it changes: SVIDs and bundles from the node agent, by the Workload API.
//!
//! One task owns the stream and reconnects with jitter. It checks each message as a peer would and publishes it whole,
//! or keeps the last good one. While the node agent is away the SVID stays until it expires; when the node agent says
//! that this process has no identity, it is withdrawn at once.

mod generation;
mod trust;
#[cfg(feature = "workload-api")]
mod workload_api;

use std::sync::Arc;

use countersign_identity::bundle::{Bundle, X509Authority};
use countersign_identity::svid::SvidError;
use countersign_identity::verify::{PeerError, verify_peer};
use countersign_identity::{BundleSet, SpiffeId, TrustDomain, X509Svid};
use countersign_mesh::outbound::UnusableKey;
use countersign_mesh::{Engine, SigningIdentity};
use countersign_transport::SharedClock;
use countersign_transport::error::Chain;
use tokio::sync::watch;
use zeroize::Zeroizing;

pub(crate) use self::generation::{Generation, Presenting};
use self::trust::Trust;
#[cfg(feature = "workload-api")]
pub use self::workload_api::InvalidEndpoint;
#[cfg(feature = "workload-api")]
pub(crate) use self::workload_api::{Endpoint, follow};
use crate::event::{Event, EventLog};
use crate::svid::SvidPicker;

/// What this process is, at the moment.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    /// The node agent was not reached yet, for this reason.
    Unreached(Arc<str>),
    /// The node agent answers, but nothing usable has come yet, for this reason.
    Waiting(Arc<str>),
    /// What came can never be used, for this reason.
    Unusable(Arc<str>),
    /// It has an SVID.
    Live(Arc<Generation>),
    /// The node agent withdrew the identity, for this reason.
    Withdrawn(Arc<str>),
}

impl Identity {
    pub(crate) const fn live(&self) -> Option<&Arc<Generation>> {
        match self {
            Self::Live(generation) => Some(generation),
            _ => None,
        }
    }

    /// Why there is no SVID.
    const fn why_mut(&mut self) -> Option<&mut Arc<str>> {
        match self {
            Self::Unreached(why)
            | Self::Waiting(why)
            | Self::Unusable(why)
            | Self::Withdrawn(why) => Some(why),
            Self::Live(_) => None,
        }
    }
}

/// One message of the node agent, whole: what is missing in it is withdrawn.
#[derive(Debug)]
pub(crate) struct Offer {
    svids: Vec<OfferedSvid>,
    /// Trust domain names, each with its authorities.
    bundles: Vec<(String, Vec<X509Authority>)>,
}

/// An SVID as it was offered, not yet checked.
pub(crate) struct OfferedSvid {
    id: String,
    hint: Option<String>,
    /// Concatenated DER, the leaf first.
    chain: Vec<u8>,
    /// PKCS#8.
    key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for OfferedSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OfferedSvid")
            .field("id", &self.id)
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

/// Why what the node agent sent cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadOffer {
    #[error("no SVID with {wanted} among the {offered} that the node agent sent")]
    NotThere { wanted: String, offered: usize },
    #[error("the SVID {id} is unusable")]
    Svid { id: String, source: SvidError },
    #[error("the certificate of the SVID {id} says {found}")]
    OtherId { id: String, found: SpiffeId },
    #[error(transparent)]
    Key(#[from] UnusableKey),
    #[error("the SVID would be refused by every peer")]
    Unverified(#[source] PeerError),
    #[error("{0:?} is not a trust domain")]
    Domain(String),
    #[error("no TLS configuration could be made for the SVID {id}")]
    Tls { id: SpiffeId, source: rustls::Error },
}

/// The writing half: checks and publishes.
pub(crate) struct Writer {
    picker: SvidPicker,
    clock: SharedClock,
    trust: Arc<Trust>,
    engine: Engine,
    publish: watch::Sender<Identity>,
    present: watch::Sender<Option<Arc<countersign_transport::Presented>>>,
    events: EventLog,
    generations: u64,
}

/// The reading half.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    /// Decides by the bundles that the writer keeps up to date.
    pub(crate) engine: Engine,
    pub(crate) identity: watch::Receiver<Identity>,
    pub(crate) presenting: Presenting,
}

impl Writer {
    pub(crate) fn new(picker: SvidPicker, clock: SharedClock, events: EventLog) -> (Self, Reader) {
        let trust = Arc::new(Trust::default());
        let engine = Engine::new(Arc::<Trust>::clone(&trust));
        let (publish, identity) = watch::channel(Identity::Unreached(
            "the node agent has not answered yet".into(),
        ));
        let (present, presenting) = watch::channel(None);
        let writer = Self {
            picker,
            clock,
            trust,
            engine: engine.clone(),
            publish,
            present,
            events,
            generations: 0,
        };
        let reader = Reader {
            engine,
            identity,
            presenting,
        };
        (writer, reader)
    }

    /// Takes over one whole message, or nothing of it.
    fn offer(&mut self, offer: Offer) -> Result<(), BadOffer> {
        let bundles = bundle_set(offer.bundles)?;
        let svid = self.pick(&offer.svids)?;
        self.take(svid, bundles)
    }

    /// Takes over an SVID and bundles: checks them as a peer would, then publishes.
    pub(crate) fn take(&mut self, svid: X509Svid, bundles: BundleSet) -> Result<(), BadOffer> {
        let signer = SigningIdentity::new(svid.id().clone(), Arc::new(svid.key().clone()))?;
        verify_peer(svid.chain(), &bundles, self.clock.now()).map_err(BadOffer::Unverified)?;
        let lost = self.trust.lost_with(&bundles);
        let is_known = |now: &Arc<Generation>| now.svid().chain() == svid.chain();
        if lost.is_empty() && self.publish.borrow().live().is_some_and(is_known) {
            self.trust.replace(bundles);
            return Ok(());
        }
        // A lost authority makes a new generation even of the same SVID: connections from before were verified under it.
        let id = svid.id().clone();
        let next = Generation::new(self.generations + 1, svid, signer, &self.trust, &self.clock)
            .map_err(|source| BadOffer::Tls { id, source })?;
        self.generations += 1;
        tracing::info!(id = %next.svid().id(), not_after = %next.svid().not_after(), number = next.number(), "SVID in use");
        self.trust.replace(bundles);
        for domain in lost {
            tracing::info!(trust_domain = %domain, "An authority was removed");
            if let Some(earlier) = self.publish.borrow().live() {
                earlier.outdate();
            }
            self.engine.authority_removed(domain.as_str());
            self.events.write(Event::AuthorityRemoved(domain));
        }
        let shown = Arc::clone(next.shown());
        self.present.send_replace(Some(next.presented().clone()));
        self.publish.send_replace(Identity::Live(Arc::new(next)));
        self.events.write(Event::SvidInUse(shown));
        Ok(())
    }

    fn pick(&self, offered: &[OfferedSvid]) -> Result<X509Svid, BadOffer> {
        let (found, wanted) = match &self.picker {
            SvidPicker::First => (offered.first(), "any ID".to_owned()),
            SvidPicker::Id(id) => (
                offered.iter().find(|svid| svid.id == id.as_str()),
                format!("the ID {id}"),
            ),
            SvidPicker::Hint(hint) => (
                offered.iter().find(|svid| svid.hint.as_ref() == Some(hint)),
                format!("the hint {hint:?}"),
            ),
        };
        let OfferedSvid { id, chain, key, .. } = found.ok_or(BadOffer::NotThere {
            wanted,
            offered: offered.len(),
        })?;
        let svid = X509Svid::from_der(chain, key).map_err(|source| BadOffer::Svid {
            id: id.clone(),
            source,
        })?;
        if svid.id().as_str() != id {
            return Err(BadOffer::OtherId {
                id: id.clone(),
                found: svid.id().clone(),
            });
        }
        Ok(svid)
    }

    pub(crate) fn withdraw(&self, why: &str) {
        let had = self.publish.send_if_modified(|now| {
            let had = now.live().is_some();
            if had {
                *now = Identity::Withdrawn(why.into());
            }
            had
        });
        if !had {
            return self.wait(why);
        }
        tracing::warn!(
            why,
            "The node agent withdrew this process's identity: no new calls"
        );
        self.present.send_replace(None);
        self.events
            .write(Event::IdentityWithdrawn { why: why.into() });
    }

    /// Notes why the node agent, which was reached, gives no SVID; what is live stays.
    fn wait(&self, why: &str) {
        self.publish.send_if_modified(|now| {
            let reached = matches!(now, Identity::Unreached(_));
            if reached {
                *now = Identity::Waiting("the node agent has not answered yet".into());
            }
            reached
        });
        self.note(why);
    }

    /// Notes why nothing new came; what is live stays. The same reason is told once.
    fn note(&self, why: &str) {
        self.publish.send_if_modified(|now| {
            if let Some(last) = now.why_mut()
                && **last != *why
            {
                *last = why.into();
                tracing::info!(why, "Waiting for an identity");
                self.events.write(Event::Waiting {
                    why: Arc::clone(last),
                });
            }
            false
        });
    }

    /// Notes what was wrong with a message; what is live stays.
    fn reject(&self, error: &(dyn std::error::Error + 'static)) {
        let why = Chain(error).to_string();
        tracing::error!(
            error = why,
            "What the node agent sent was not taken over; the last good SVID stays"
        );
        self.events.write(Event::SvidRejected {
            why: why.as_str().into(),
        });
        if !error
            .downcast_ref::<BadOffer>()
            .is_some_and(|bad| matches!(bad, BadOffer::Key(_)))
        {
            return self.wait(&why);
        }
        // No later SVID of this process will have another kind of key: that is a setting of the node agent.
        self.publish.send_if_modified(|now| {
            let first = now.live().is_none();
            if first {
                *now = Identity::Unusable(why.into());
            }
            first
        });
    }
}

fn bundle_set(offered: Vec<(String, Vec<X509Authority>)>) -> Result<BundleSet, BadOffer> {
    offered
        .into_iter()
        .map(|(name, x509_authorities)| {
            let domain = TrustDomain::new(&name).map_err(|_| BadOffer::Domain(name))?;
            Ok(Bundle {
                x509_authorities,
                ..Bundle::empty(domain)
            })
        })
        .collect()
}
