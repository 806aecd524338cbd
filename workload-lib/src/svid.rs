//! The X.509-SVID in use, as the application sees it, and which of several to use.

use std::sync::Arc;

use countersign_identity::{SpiffeId, UnixTime, X509Svid};
use rustls_pki_types::CertificateDer;

/// The X.509-SVID that a [`Mesh`](crate::Mesh) uses, without its key. All of it belongs to one moment: a rotation makes
/// another `Svid`.
///
/// # Examples
/// ```
/// # fn example(mesh: &countersign::Mesh) -> Result<(), countersign::NoIdentity> {
/// let svid = mesh.svid()?;
/// println!("{} until {}", svid.id(), svid.not_after());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Svid {
    id: SpiffeId,
    serial: String,
    not_before: UnixTime,
    not_after: UnixTime,
    chain: Vec<CertificateDer<'static>>,
    leaf: CertificateDer<'static>,
}

impl Svid {
    pub(crate) fn of(svid: &X509Svid) -> Arc<Self> {
        let chain = svid.chain().to_vec();
        Arc::new(Self {
            id: svid.id().clone(),
            serial: svid.leaf().serial.clone(),
            not_before: svid.not_before(),
            not_after: svid.not_after(),
            leaf: chain.first().cloned().unwrap_or_else(|| Vec::new().into()),
            chain,
        })
    }

    /// This workload's SPIFFE ID.
    #[must_use]
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The serial number, decimal, as other processes write it to their logs.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// From when it is valid.
    #[must_use]
    pub const fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// Until when it is valid, inclusive.
    #[must_use]
    pub const fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// The leaf certificate, DER.
    #[must_use]
    pub const fn leaf(&self) -> &CertificateDer<'static> {
        &self.leaf
    }

    /// What peers are shown, DER: the leaf first, then the intermediates.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }
}

/// Picks one of several SVIDs that the node agent offers to this process.
///
/// # Examples
/// ```
/// # async fn example() -> Result<(), countersign::JoinError> {
/// use countersign::{Mesh, SvidPicker};
///
/// let mesh = Mesh::join().svid(SvidPicker::Hint("internal".to_owned())).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SvidPicker {
    /// The first that the node agent lists, as the Workload API's default identity (SPIFFE Workload API, section 5.2.1).
    #[default]
    First,
    /// The one with this ID.
    Id(SpiffeId),
    /// The one with this hint, as its registration entry has it.
    Hint(String),
}
