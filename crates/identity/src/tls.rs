//! mTLS configurations for rustls: one per SVID generation, with the one verifier on both sides.
//!
//! A configuration carries one fixed certificate, so that it is known which one a connection presents.
//! Tickets, session storage and early data are off: a resumed session would skip the verifier. The cryptographic
//! provider is passed explicitly (aws-lc-rs, X25519MLKEM768 preferred).

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::time_provider::TimeProvider;
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use crate::bundle::Bundles;
use crate::verify::{InvalidSvid, Leaf, PeerError, VerifiedLeaf, verify_peer};
use crate::{SpiffeId, TrustDomain, X509Svid};

/// The ALPN name of HTTP/2.
pub const ALPN_H2: &[u8] = b"h2";
/// The ALPN name of HTTP/1.1.
pub const ALPN_HTTP11: &[u8] = b"http/1.1";

/// Who may be at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectedPeer {
    /// Exactly this ID.
    Exactly(SpiffeId),
    /// Any ID of this trust domain.
    MemberOf(TrustDomain),
    /// Any member of this trust domain, or one of these IDs of whatever trust domain.
    MemberOrOneOf(TrustDomain, Arc<HashSet<SpiffeId>>),
    /// Any ID that verifies against the bundle of its own trust domain.
    Anyone,
}

impl ExpectedPeer {
    fn check(&self, id: &SpiffeId) -> Result<(), PeerError> {
        let (fits, expected) = match self {
            Self::Exactly(expected) => (id == expected, expected.as_str()),
            Self::MemberOf(domain) => (id.is_member_of(domain), domain.as_str()),
            Self::MemberOrOneOf(domain, others) => (
                id.is_member_of(domain) || others.contains(id),
                domain.as_str(),
            ),
            Self::Anyone => (true, ""),
        };
        if fits {
            return Ok(());
        }
        Err(PeerError::WrongId {
            expected: expected.to_owned(),
            actual: id.clone(),
        })
    }
}

/// Whether a server insists on a client certificate. One that is presented must verify in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// The handshake fails without one.
    Required,
    /// A client may come without one.
    Optional,
    /// No client is asked for one.
    Never,
}

/// Which TLS versions are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersions {
    /// TLS 1.3 alone: the mesh.
    Only13,
    /// TLS 1.2 too, for SPIRE's peers.
    From12,
}

impl TlsVersions {
    fn list(self) -> &'static [&'static SupportedProtocolVersion] {
        static ONLY_13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
        static FROM_12: [&SupportedProtocolVersion; 2] =
            [&rustls::version::TLS13, &rustls::version::TLS12];
        match self {
            Self::Only13 => &ONLY_13,
            Self::From12 => &FROM_12,
        }
    }
}

/// Which key exchanges are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyExchange {
    /// A hybrid with ML-KEM if the other side has it, a classical one otherwise.
    #[default]
    PreferPostQuantum,
    /// Hybrids with ML-KEM alone, and so TLS 1.3 alone: what is recorded today can't be read by a quantum computer.
    RequirePostQuantum,
}

impl KeyExchange {
    /// The provider that has these.
    #[must_use]
    pub fn provider(self) -> CryptoProvider {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        if self == Self::RequirePostQuantum {
            provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::SECP256R1MLKEM768];
        }
        provider
    }

    /// Of these versions those that have them.
    #[must_use]
    pub fn versions(self, wanted: TlsVersions) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::PreferPostQuantum => wanted.list(),
            Self::RequirePostQuantum => TlsVersions::Only13.list(),
        }
    }
}

/// What every TLS configuration of a process shares.
#[derive(Clone, Debug)]
pub struct TlsContext {
    provider: Arc<CryptoProvider>,
    key_exchange: KeyExchange,
    bundles: Arc<dyn Bundles>,
    time: Arc<dyn TimeProvider>,
}

impl TlsContext {
    /// Verification against these bundles, at the time that this clock tells.
    #[must_use]
    pub fn new(bundles: Arc<dyn Bundles>, time: Arc<dyn TimeProvider>) -> Self {
        Self {
            provider: Arc::new(KeyExchange::default().provider()),
            key_exchange: KeyExchange::default(),
            bundles,
            time,
        }
    }

    /// The same, with these key exchanges.
    #[must_use]
    pub fn exchanging(self, key_exchange: KeyExchange) -> Self {
        Self {
            provider: Arc::new(key_exchange.provider()),
            key_exchange,
            ..self
        }
    }

    /// A server that presents this SVID.
    ///
    /// # Errors
    /// rustls refuses the key.
    pub fn server(
        &self,
        svid: &X509Svid,
        client_auth: ClientAuth,
        expect: ExpectedPeer,
        versions: TlsVersions,
        alpn: &[&[u8]],
    ) -> Result<ServerConfig, rustls::Error> {
        let builder =
            ServerConfig::builder_with_details(Arc::clone(&self.provider), Arc::clone(&self.time))
                .with_protocol_versions(self.key_exchange.versions(versions))?;
        let builder = match client_auth {
            ClientAuth::Never => builder.with_no_client_auth(),
            ClientAuth::Required | ClientAuth::Optional => {
                builder.with_client_cert_verifier(Arc::new(self.verifier(expect, client_auth)))
            }
        };
        let mut config = builder.with_single_cert(svid.chain().to_vec(), private_key(svid))?;
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// A client that presents this SVID, or none, and accepts only who is expected.
    ///
    /// # Errors
    /// rustls refuses the key.
    pub fn client(
        &self,
        svid: Option<&X509Svid>,
        expect: ExpectedPeer,
        versions: TlsVersions,
        alpn: &[&[u8]],
    ) -> Result<ClientConfig, rustls::Error> {
        self.client_with(
            Arc::new(self.verifier(expect, ClientAuth::Required)),
            svid,
            versions,
            alpn,
        )
    }

    /// A client without an SVID that takes the server's word for who it is, checking only that its certificate names
    /// this ID: for a first contact without a trust bundle, when an operator asked for that.
    ///
    /// # Errors
    /// rustls refuses the settings.
    pub fn insecure_client(
        &self,
        server: SpiffeId,
        versions: TlsVersions,
        alpn: &[&[u8]],
    ) -> Result<ClientConfig, rustls::Error> {
        let verifier = Unverified {
            expected: server,
            algorithms: self.algorithms(),
        };
        self.client_with(Arc::new(verifier), None, versions, alpn)
    }

    fn client_with(
        &self,
        verifier: Arc<dyn ServerCertVerifier>,
        svid: Option<&X509Svid>,
        versions: TlsVersions,
        alpn: &[&[u8]],
    ) -> Result<ClientConfig, rustls::Error> {
        let builder =
            ClientConfig::builder_with_details(Arc::clone(&self.provider), Arc::clone(&self.time))
                .with_protocol_versions(self.key_exchange.versions(versions))?
                .dangerous()
                .with_custom_certificate_verifier(verifier);
        let mut config = match svid {
            Some(svid) => {
                builder.with_client_auth_cert(svid.chain().to_vec(), private_key(svid))?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(config)
    }

    fn verifier(&self, expect: ExpectedPeer, client_auth: ClientAuth) -> SpiffeVerifier {
        let algorithms = self.algorithms();
        SpiffeVerifier {
            bundles: Arc::clone(&self.bundles),
            expect,
            client_auth,
            algorithms,
        }
    }

    fn algorithms(&self) -> WebPkiSupportedAlgorithms {
        self.provider.signature_verification_algorithms
    }
}

fn private_key(svid: &X509Svid) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(svid.key().to_pkcs8().to_vec()).into()
}

/// The cause of a failed handshake, if this side's verifier refused the peer.
#[must_use]
pub fn peer_error(error: &rustls::Error) -> Option<&PeerError> {
    match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
            other.0.downcast_ref::<PeerError>()
        }
        _ => None,
    }
}

/// The client of a finished handshake; `None` if it came without a certificate. Only for connections of a configuration
/// that [`TlsContext::server`] made: it has verified what the client presented.
///
/// # Errors
/// The leaf is not an X.509-SVID, which that configuration does not let through.
pub fn verified_client(
    connection: &rustls::ServerConnection,
) -> Result<Option<VerifiedLeaf>, InvalidSvid> {
    match connection.peer_certificates() {
        None | Some([]) => Ok(None),
        Some([leaf, ..]) => Leaf::parse(leaf).map(VerifiedLeaf::of_handshake).map(Some),
    }
}

fn refused(error: PeerError) -> rustls::Error {
    rustls::CertificateError::Other(rustls::OtherError(Arc::new(error))).into()
}

/// rustls checks the handshake's signature. Both verifier traits need the same three methods.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

/// Verifies either side of a connection.
struct SpiffeVerifier {
    bundles: Arc<dyn Bundles>,
    expect: ExpectedPeer,
    client_auth: ClientAuth,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SpiffeVerifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let chain: Vec<_> = std::iter::once(leaf)
            .chain(intermediates)
            .map(borrow)
            .collect();
        let leaf = verify_peer(&chain, self.bundles.as_ref(), now.into()).map_err(refused)?;
        self.expect.check(&leaf.id).map_err(refused)
    }
}

fn borrow<'a>(der: &'a CertificateDer<'_>) -> CertificateDer<'a> {
    CertificateDer::from(der.as_ref())
}

impl fmt::Debug for SpiffeVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpiffeVerifier")
            .field("expect", &self.expect)
            .finish_non_exhaustive()
    }
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

impl ClientCertVerifier for SpiffeVerifier {
    /// No hints: a client has one SVID and knows which.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.client_auth == ClientAuth::Required
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    handshake_signatures!();
}

/// Insecure bootstrap: checks the name in the certificate and that the server holds its key, but no signature on it.
#[derive(Debug)]
struct Unverified {
    expected: SpiffeId,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let leaf = Leaf::parse(end_entity).map_err(|e| refused(e.into()))?;
        ExpectedPeer::Exactly(self.expected.clone())
            .check(&leaf.id)
            .map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}
