//! The server's certificate authority: its keys, their rotation, and everything that is signed with them.
//!
//! The authority lives in two slots. One is active and signs; the other holds the next authority, published in the
//! bundle well before its first use, or the one before, whose certificates are still in use. All signing runs on one pool
//! of blocking threads; the async threads only wait. Handlers of the API call [`Authority`]'s methods to sign, and
//! [`Authority::command`] to rotate by hand; the daemon runs [`Rotation`] and [`ServerSvid`].

mod command;
mod downstream;
mod error;
pub mod journal;
mod jwt;
mod mint;
mod pool;
mod purpose;
mod rotation;
pub mod schedule;
mod server_svid;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use countersign_identity::csr::{Csr, InvalidCsr, PublicKey};
use countersign_identity::issue::{IssueError, IssuingCa, Subject, SvidTemplate};
use countersign_identity::jwt::{JwtIssueError, JwtSigner};
use countersign_identity::key::{KeyType, PrivateKey};
use countersign_identity::{Entry, SignedSvid, SpiffeId, TrustDomain, UnixTime, X509Svid};
use countersign_transport::SharedClock;
use countersign_transport::error::BoxError;
use tokio::sync::mpsc;

pub use command::{AuthorityCommand, AuthorityState, CommandError, States};
pub use error::RotationError;
pub use journal::{Kind, SlotStatus};
pub use jwt::JwtRequest;
pub use mint::MintError;
pub use purpose::Purpose;
pub use rotation::Rotation;
pub use server_svid::{ServerSvid, ServerSvidError};

use command::{Envelope, Inbox};
use journal::Journal;
use pool::{JOB_SIZE, SigningPool};

/// What the authority was configured to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The trust domain that it signs for.
    pub trust_domain: TrustDomain,
    /// Lifetime of an authority, in whole seconds.
    pub ca_ttl: Duration,
    /// The kind of key of an authority and of the server's own SVID.
    pub ca_key_type: KeyType,
    /// The subject of an authority's certificate.
    pub ca_subject: Subject,
    /// Lifetime of X.509-SVIDs whose entry names none, in whole seconds.
    pub x509_svid_ttl: Duration,
    /// Lifetime of node agents' SVIDs, in whole seconds.
    pub agent_ttl: Duration,
    /// Settings of JWT-SVIDs; none if this server signs none.
    pub jwt: Option<JwtSettings>,
}

/// What the authority was configured to do with JWT-SVIDs.
#[derive(Clone, Debug)]
pub struct JwtSettings {
    /// The kind of key of a JWT authority. It lives as long as an X.509 authority.
    pub key_type: KeyType,
    /// Lifetime of JWT-SVIDs whose entry or request names none, in whole seconds.
    pub svid_ttl: Duration,
    /// The claim `iss`; left out if there is none.
    pub issuer: Option<String>,
}

/// One workload's certificate to sign: names and lifetime come from the entry, only the key from the CSR.
#[derive(Clone, Debug)]
pub struct WorkloadRequest {
    /// The entry that the caller is authorised for.
    pub entry: Arc<Entry>,
    /// The certificate signing request, in DER.
    pub csr_der: Bytes,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The CSR does not parse, its own signature is wrong, or its key is of no supported kind: the caller's fault.
    #[error("invalid CSR")]
    InvalidCsr(#[from] InvalidCsr),
    /// The audience can't be put into a token: the caller's fault.
    #[error(transparent)]
    Audience(JwtIssueError),
    /// The authority's key or the encoder failed: the server's fault.
    #[error("the certificate could not be signed")]
    Internal(#[source] BoxError),
    /// There is no active authority, or it has expired.
    #[error("the server has no valid authority to sign with at the moment")]
    Unavailable,
}

impl From<IssueError> for SignError {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Expired(_) => Self::Unavailable,
            other => Self::Internal(other.into()),
        }
    }
}

/// Signs with the active authority. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Authority(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: Settings,
    clock: SharedClock,
    pool: SigningPool,
    x509: ArcSwapOption<IssuingCa>,
    jwt: ArcSwapOption<JwtSigner>,
    /// The journal as last committed.
    journal: ArcSwap<Journal>,
    commands: mpsc::Sender<Envelope>,
}

impl Authority {
    fn new(settings: Settings, clock: SharedClock) -> (Self, Inbox) {
        let (commands, inbox) = mpsc::channel(command::MAX_QUEUED);
        let shared = Shared {
            settings,
            clock,
            pool: SigningPool::per_core(),
            x509: ArcSwapOption::empty(),
            jwt: ArcSwapOption::empty(),
            journal: ArcSwap::default(),
            commands,
        };
        (Self(Arc::new(shared)), inbox)
    }

    /// Signs a node agent's X.509-SVID, with the configured lifetime. Only the key of the CSR is used. The CSR's signature
    /// is not verified, as in SPIRE: the node was attested by other means.
    ///
    /// # Errors
    /// [`SignError`], which tells the caller's faults from the server's.
    pub async fn sign_agent(&self, id: &SpiffeId, csr_der: Bytes) -> Result<SignedSvid, SignError> {
        let id = id.clone();
        let shared = Arc::clone(&self.0);
        let signed = self.0.pool.run(move || shared.sign_agent(&id, &csr_der));
        let signed = signed.await.map_err(SignError::Internal).flatten();
        Purpose::Agent.counted(signed)
    }

    /// Signs X.509-SVIDs for workloads; answer `i` belongs to request `i`, and one failure leaves the others alone.
    pub async fn sign_workloads(
        &self,
        requests: Vec<WorkloadRequest>,
    ) -> Vec<Result<SignedSvid, SignError>> {
        let mut requests = requests.into_iter();
        let mut jobs = Vec::with_capacity(requests.len().div_ceil(JOB_SIZE));
        loop {
            let job: Vec<_> = requests.by_ref().take(JOB_SIZE).collect();
            if job.is_empty() {
                break;
            }
            jobs.push(self.sign_job(job));
        }
        let answers: Vec<_> = futures::future::join_all(jobs)
            .await
            .into_iter()
            .flatten()
            .collect();
        let signed = answers.iter().filter(|answer| answer.is_ok()).count();
        Purpose::X509.count(signed, answers.len() - signed);
        answers
    }

    async fn sign_job(&self, job: Vec<WorkloadRequest>) -> Vec<Result<SignedSvid, SignError>> {
        let shared = Arc::clone(&self.0);
        let size = job.len();
        match self
            .0
            .pool
            .run(move || job.iter().map(|r| shared.sign_workload(r)).collect())
            .await
        {
            Ok(answers) => answers,
            Err(error) => {
                let reason = error.to_string();
                (0..size)
                    .map(|_| Err(SignError::Internal(reason.clone().into())))
                    .collect()
            }
        }
    }

    /// When an SVID for this server would expire if it were signed now; none without an authority.
    fn server_svid_end(&self) -> Option<UnixTime> {
        let active = self.0.x509.load();
        let end = self.0.clock.now().after(self.0.settings.x509_svid_ttl);
        active
            .as_ref()
            .map(|ca| ca.authority().not_after().min(end))
    }

    /// The ID of the root that SVIDs signed now lead to; none without an authority.
    fn root_id(&self) -> Option<String> {
        let active = self.0.x509.load();
        active.as_ref().map(|ca| ca.root_id().to_owned())
    }

    /// Makes a key and an SVID for this server itself, and the ID of the root that it leads to.
    async fn sign_server(&self) -> Result<(X509Svid, String), SignError> {
        let shared = Arc::clone(&self.0);
        self.0
            .pool
            .run(move || shared.sign_server())
            .await
            .map_err(SignError::Internal)?
    }

    /// The trust domain that it signs for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.settings.trust_domain
    }

    fn settings(&self) -> &Settings {
        &self.0.settings
    }

    fn publish(&self, journal: &Journal) {
        self.0.journal.store(Arc::new(journal.clone()));
    }

    fn activate_x509(&self, ca: IssuingCa) {
        self.0.x509.store(Some(Arc::new(ca)));
    }

    fn activate_jwt(&self, signer: JwtSigner) {
        self.0.jwt.store(Some(Arc::new(signer)));
    }
}

impl Shared {
    fn sign_agent(&self, id: &SpiffeId, csr_der: &[u8]) -> Result<SignedSvid, SignError> {
        let csr = Csr::parse(csr_der)?;
        self.issue(
            &SvidTemplate {
                id,
                dns_names: &[],
                ttl: self.settings.agent_ttl,
            },
            csr.public_key(),
        )
    }

    fn sign_workload(&self, request: &WorkloadRequest) -> Result<SignedSvid, SignError> {
        let csr = Csr::parse(&request.csr_der)?;
        csr.verify_signature()?;
        let entry = &request.entry;
        let ttl = entry.x509_svid_ttl.unwrap_or(self.settings.x509_svid_ttl);
        self.issue(
            &SvidTemplate {
                id: &entry.spiffe_id,
                dns_names: &entry.dns_names,
                ttl,
            },
            csr.public_key(),
        )
    }

    fn sign_server(&self) -> Result<(X509Svid, String), SignError> {
        let internal = |error: BoxError| SignError::Internal(error);
        let key =
            PrivateKey::generate(self.settings.ca_key_type).map_err(|e| internal(e.into()))?;
        let id = self.settings.trust_domain.server_id();
        let template = SvidTemplate {
            id: &id,
            dns_names: &[],
            ttl: self.settings.x509_svid_ttl,
        };
        let ca = self.x509.load_full().ok_or(SignError::Unavailable)?;
        let issued = ca.issue(
            &template,
            &PublicKey::of(&key).map_err(InvalidCsr::from)?,
            self.clock.now(),
        )?;
        let svid = X509Svid::new(issued.chain, key).map_err(|e| internal(e.into()))?;
        Ok((svid, ca.root_id().to_owned()))
    }

    fn issue(&self, template: &SvidTemplate<'_>, key: &PublicKey) -> Result<SignedSvid, SignError> {
        self.issue_named(template, Subject::svid(), key)
    }

    fn issue_named(
        &self,
        template: &SvidTemplate<'_>,
        subject: Subject,
        key: &PublicKey,
    ) -> Result<SignedSvid, SignError> {
        let ca = self.x509.load_full().ok_or(SignError::Unavailable)?;
        Ok(ca.issue_named(template, subject, key, self.clock.now())?)
    }
}

#[cfg(test)]
mod tests;
