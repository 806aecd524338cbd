//! Federation with foreign trust domains: the endpoint where they read this one's bundle (`endpoint`), and the client
//! that follows theirs (`follow`).
//!
//! The relationships come from the configuration and from the store; if both have one for the same trust domain, that of
//! the configuration wins. A fetched bundle is written to the store, and reaches the index and node agents from there.

mod certificate;
mod endpoint;
mod fetch;
mod follow;
mod schedule;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use countersign_identity::federation::Relationship;

pub(crate) use certificate::{CertificateFile, InvalidCertificate};
pub(crate) use endpoint::router;
pub(crate) use follow::{Follower, RefreshError, Refresher};

/// What the configuration says about federation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FederationSettings {
    /// The bundle endpoint; none unless it is configured.
    pub(crate) endpoint: Option<EndpointSettings>,
    /// The relationships that the configuration names.
    pub(crate) relationships: Vec<Relationship>,
}

/// The bundle endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointSettings {
    /// Where it listens.
    pub(crate) address: IpAddr,
    /// The port; 0 takes a free one.
    pub(crate) port: u16,
    /// The refresh hint of the served bundle: how often others should fetch it.
    pub(crate) refresh_hint: Duration,
    /// The certificate that it presents.
    pub(crate) certificate: EndpointCertificate,
}

/// The certificate of a bundle endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndpointCertificate {
    /// `https_spiffe`: the server's own X.509-SVID.
    Svid,
    /// `https_web`: a Web PKI certificate, from files.
    File(CertificateFiles),
}

/// A certificate and its key in files that another program renews.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateFiles {
    /// The chain in PEM, the leaf first.
    pub(crate) chain: PathBuf,
    /// The key in PEM.
    pub(crate) key: PathBuf,
    /// How often the files are read again.
    pub(crate) sync_interval: Duration,
}
