//! The identity of this process as it changes: SVIDs and bundles from the node agent, by the Workload API.
//!
//! One task owns the stream and reconnects with jitter. It checks each message as a peer would and publishes it whole,
//! or keeps the last good one. While the node agent is away the SVID stays until it expires; when the node agent says
//! that this process has no identity, it is withdrawn at once.

mod generation;
mod trust;
mod workload_api;

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::bundle::{Bundle, InvalidAuthority, X509Authority};
use countersign_identity::svid::SvidError;
use countersign_identity::verify::{PeerError, verify_peer};
use countersign_identity::{BundleSet, PrivateKey, SpiffeId, TrustDomain, X509Svid};
use countersign_mesh::outbound::UnusableKey;
use countersign_mesh::{Engine, SigningIdentity};
use countersign_transport::SharedClock;
use countersign_transport::backoff::Backoff;
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use self::generation::{Generation, Presenting};
use self::trust::Trust;
pub(crate) use self::workload_api::check_endpoint;
use self::workload_api::{Offer, OfferedSvid, Said};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Which of several SVIDs a [`Mesh`](crate::Mesh) uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Which {
    /// The first that the node agent lists.
    #[default]
    First,
    /// The one with this ID.
    Id(SpiffeId),
    /// The one with this hint, as its registration entry has it.
    Hint(String),
}

/// What this process is, at the moment.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    /// Nothing usable has come yet, for this reason.
    Waiting(Arc<str>),
    /// What came can never be used, for this reason.
    Unusable(Arc<str>),
    /// It has an SVID.
    Live(Arc<Generation>),
    /// The node agent says that it is nobody any more.
    Withdrawn(Arc<str>),
}

impl Identity {
    pub(crate) const fn live(&self) -> Option<&Arc<Generation>> {
        match self {
            Self::Live(generation) => Some(generation),
            Self::Waiting(_) | Self::Unusable(_) | Self::Withdrawn(_) => None,
        }
    }
}

/// Why what the node agent sent cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadOffer {
    #[error("no SVID with {0} among the {1} that the node agent sent")]
    NotThere(String, usize),
    #[error("the SVID {id} is unusable: {source}")]
    Svid { id: String, source: SvidError },
    #[error(transparent)]
    Key(#[from] UnusableKey),
    #[error("the SVID would be refused by every peer: {0}")]
    Unverified(PeerError),
    #[error("the bundle of {domain:?} is unusable: {source}")]
    Authority {
        domain: String,
        source: InvalidAuthority,
    },
    #[error("{0:?} is not a trust domain")]
    Domain(String),
    #[error("no TLS configuration could be made for the SVID {id}: {source}")]
    Tls { id: SpiffeId, source: rustls::Error },
}

/// The writing half: checks and publishes.
pub(crate) struct Writer {
    which: Which,
    clock: SharedClock,
    trust: Arc<Trust>,
    engine: Engine,
    publish: watch::Sender<Identity>,
    present: watch::Sender<Option<Arc<countersign_transport::Presented>>>,
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
    pub(crate) fn new(which: Which, clock: SharedClock) -> (Self, Reader) {
        let trust = Arc::new(Trust::default());
        let engine = Engine::new(Arc::<Trust>::clone(&trust));
        let (publish, identity) = watch::channel(Identity::Waiting(
            "the node agent has not answered yet".into(),
        ));
        let (present, presenting) = watch::channel(None);
        (
            Self {
                which,
                clock,
                trust,
                engine: engine.clone(),
                publish,
                present,
                generations: 0,
            },
            Reader {
                engine,
                identity,
                presenting,
            },
        )
    }

    /// Takes over one whole message, or nothing of it.
    pub(crate) fn offer(&mut self, offer: &Offer) -> Result<(), BadOffer> {
        let bundles = read_bundles(&offer.bundles)?;
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
            tracing::info!(trust_domain = %domain, "an authority was removed");
            self.engine.authority_removed(domain.as_str());
        }
        self.present.send_replace(Some(next.presented().clone()));
        self.publish.send_replace(Identity::Live(Arc::new(next)));
        Ok(())
    }

    fn pick(&self, offered: &[OfferedSvid]) -> Result<X509Svid, BadOffer> {
        let (found, wanted) = match &self.which {
            Which::First => (offered.first(), String::new()),
            Which::Id(id) => (
                offered.iter().find(|svid| svid.id == id.as_str()),
                format!("the ID {id}"),
            ),
            Which::Hint(hint) => (
                offered.iter().find(|svid| svid.hint.as_ref() == Some(hint)),
                format!("the hint {hint:?}"),
            ),
        };
        let svid = found.ok_or_else(|| BadOffer::NotThere(wanted, offered.len()))?;
        let unusable = |source| BadOffer::Svid {
            id: svid.id.clone(),
            source,
        };
        let key = PrivateKey::from_pkcs8(&svid.key).map_err(|e| unusable(e.into()))?;
        X509Svid::new(svid.chain.clone(), key).map_err(unusable)
    }

    pub(crate) fn withdraw(&self, why: &str) {
        let had = self.publish.send_if_modified(|now| match now {
            Identity::Live(_) => {
                *now = Identity::Withdrawn(why.into());
                true
            }
            Identity::Waiting(last) | Identity::Unusable(last) | Identity::Withdrawn(last) => {
                *last = why.into();
                false
            }
        });
        if had {
            tracing::warn!(
                why,
                "the node agent withdrew this process's identity: no new calls"
            );
            self.present.send_replace(None);
        }
    }

    /// Notes why nothing new came; what is live stays.
    fn note(&self, why: &str) {
        self.publish.send_if_modified(|now| {
            if let Identity::Waiting(last) | Identity::Unusable(last) | Identity::Withdrawn(last) =
                now
            {
                *last = why.into();
            }
            false
        });
    }

    /// Notes what was wrong with an offer; what is live stays.
    fn reject(&self, bad: &BadOffer) {
        tracing::error!(error = %bad, "what the node agent sent was not taken over; the last good SVID stays");
        if !matches!(bad, BadOffer::Key(_)) {
            return self.note(&bad.to_string());
        }
        self.publish.send_if_modified(|now| {
            let first = now.live().is_none();
            if first {
                *now = Identity::Unusable(bad.to_string().into());
            }
            first
        });
    }
}

/// Follows the Workload API until `stop`.
pub(crate) async fn follow(endpoint: String, mut writer: Writer, stop: CancellationToken) {
    stop.run_until_cancelled_owned(async move {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT).jitter(0.3);
        loop {
            match workload_api::open(&endpoint).await {
                Ok(mut stream) => {
                    while let Some(said) = stream.next().await {
                        if writer.hear(said) {
                            backoff.reset();
                        }
                    }
                }
                Err(why) => writer.hear_nothing(&format!(
                    "could not reach the node agent at {endpoint}: {why}"
                )),
            }
            backoff.wait().await;
        }
    })
    .await;
}

impl Writer {
    /// Whether it was good news.
    fn hear(&mut self, said: Said) -> bool {
        match said {
            Said::Offer(offer) => match self.offer(&offer) {
                Ok(()) => return true,
                Err(bad) => self.reject(&bad),
            },
            Said::Malformed(why) => {
                tracing::error!(error = %why, "what the node agent sent was not taken over; the last good SVID stays");
                self.note(&why);
            }
            Said::NoIdentity(why) => self.withdraw(&format!("the node agent says: {why}")),
            Said::Over(why) => {
                self.hear_nothing(&format!("the node agent ended the stream: {why}"));
            }
        }
        false
    }

    fn hear_nothing(&self, why: &str) {
        tracing::debug!(why, "no word from the node agent; trying again");
        self.note(why);
    }
}

fn read_bundles(
    offered: &[(String, Vec<rustls_pki_types::CertificateDer<'static>>)],
) -> Result<BundleSet, BadOffer> {
    offered
        .iter()
        .map(|(name, authorities)| {
            let domain = TrustDomain::new(name).map_err(|_| BadOffer::Domain(name.clone()))?;
            let authorities = authorities
                .iter()
                .cloned()
                .map(X509Authority::new)
                .collect::<Result<_, _>>();
            let x509_authorities = authorities.map_err(|source| BadOffer::Authority {
                domain: name.clone(),
                source,
            })?;
            Ok(Bundle {
                x509_authorities,
                ..Bundle::empty(domain)
            })
        })
        .collect()
}
