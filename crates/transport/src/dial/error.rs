//! Why a connection could not be opened, and what an operator can do about it.

use std::error::Error;
use std::io;
use std::time::Duration;

use countersign_identity::tls;
use countersign_identity::verify::{InvalidSvid, PeerError};
use rustls::AlertDescription;

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The name could not be resolved, or is malformed.
    #[error("cannot resolve {target}")]
    Resolve {
        /// Where to.
        target: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Connection refused, or the target is unreachable.
    #[error("cannot connect to {target}")]
    Connect {
        /// Where to.
        target: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Timed out.
    #[error("no connection to {target} within {} s", limit.as_secs())]
    TimedOut {
        /// Where to.
        target: String,
        /// The limit on resolving, connecting and the handshake together.
        limit: Duration,
    },
    /// One side refused the other's certificate, version or protocol.
    #[error("TLS handshake with {target} failed")]
    Tls {
        /// Where to.
        target: String,
        /// Why; [`Cause::of`] tells the cases apart.
        #[source]
        source: rustls::Error,
    },
    /// The connection broke during the handshake.
    #[error("{target} broke the connection during the TLS handshake")]
    Broken {
        /// Where to.
        target: String,
        /// How.
        #[source]
        source: io::Error,
    },
    /// The server presented no certificate.
    #[error("{target} presented no certificate")]
    NoCertificate {
        /// Where to.
        target: String,
    },
    /// The configured verifier accepted the server's certificate, although it is not an X.509-SVID.
    #[error("the certificate of {target} is not an X.509-SVID")]
    NotAnSvid {
        /// Where to.
        target: String,
        /// What is wrong with it.
        #[source]
        source: InvalidSvid,
    },
}

impl DialError {
    pub(super) fn handshake(target: String, source: io::Error) -> Self {
        match source
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .cloned()
        {
            Some(source) => Self::Tls { target, source },
            None => Self::Broken { target, source },
        }
    }

    /// The dial error among the causes of `error`, such as a `tonic::Status` or an error of hyper-util's client.
    #[must_use]
    pub fn of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        causes(error).find_map(|e| e.downcast_ref())
    }
}

/// Kinds of reasons why a connection could not be opened, or was closed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The name could not be resolved.
    Unresolved,
    /// Connection refused: no process listens there.
    Refused,
    /// The socket file does not exist.
    NoSocket,
    /// No permission to connect.
    Denied,
    /// The target is unreachable, or did not answer in time.
    Unreachable,
    /// The peer's certificate does not lead to an authority of a bundle that is known here.
    UnknownAuthority,
    /// The peer has another SPIFFE ID than expected.
    WrongId,
    /// A certificate of the peer is not yet valid, or has expired, by this machine's clock.
    Clock,
    /// The peer's certificate is not an X.509-SVID.
    NotAnSvid,
    /// The peer did not accept the certificate that this side presented.
    OwnCertificateRefused,
    /// By the peer's alert, the certificate that this side presented has expired.
    OwnCertificateExpired,
    /// The peer requires a certificate, and this side presented none.
    CertificateRequired,
    /// The peer does not speak TLS, shares no version or protocol with this side, or broke the connection.
    Protocol,
}

impl Cause {
    /// The kind of the cause inside `error`; `None` if it has nothing to do with connecting.
    ///
    /// In TLS 1.3 a server verifies the client's certificate after the client has finished its handshake (RFC 8446,
    /// 4.4.2). So a refusal may appear only as the failure of the first request; it is found there too.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        causes(error).find_map(|e| {
            if let Some(dial) = e.downcast_ref::<DialError>() {
                return Self::of_dial(dial);
            }
            e.downcast_ref::<rustls::Error>()
                .map(Self::of_tls)
                .or_else(|| Refusal::read(e).map(Self::from))
        })
    }

    fn of_dial(error: &DialError) -> Option<Self> {
        match error {
            DialError::Resolve { .. } => Some(Self::Unresolved),
            DialError::Connect { source, .. } => Some(Self::of_connect(source.kind())),
            DialError::TimedOut { .. } => Some(Self::Unreachable),
            DialError::Broken { .. } => Some(Self::Protocol),
            DialError::NoCertificate { .. } | DialError::NotAnSvid { .. } => Some(Self::NotAnSvid),
            // Its source is more specific.
            DialError::Tls { .. } => None,
        }
    }

    const fn of_connect(kind: io::ErrorKind) -> Self {
        match kind {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::NotFound => Self::NoSocket,
            io::ErrorKind::PermissionDenied => Self::Denied,
            _ => Self::Unreachable,
        }
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match (tls::peer_error(error), error) {
            (Some(PeerError::UnknownAuthority { .. } | PeerError::NoBundle(_)), _) => {
                Self::UnknownAuthority
            }
            (Some(PeerError::WrongId { .. }), _) => Self::WrongId,
            (Some(PeerError::NotYetValid { .. } | PeerError::Expired { .. }), _) => Self::Clock,
            (Some(_), _) => Self::NotAnSvid,
            (None, rustls::Error::AlertReceived(alert)) => Self::of_alert(*alert),
            (None, _) => Self::Protocol,
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        Refusal::of_alert(alert).map_or(Self::Protocol, Self::from)
    }

    /// What an operator can do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Unresolved => "check the configured host name and this machine's name service",
            Self::Refused => "check that it is running, and the configured address and port",
            Self::NoSocket => "check that it is running, and the configured socket path",
            Self::Denied => "check that this user may use the socket and its folder",
            Self::Unreachable => "check the configured address, the network and firewalls",
            Self::UnknownAuthority => {
                "check that the trust bundle here is that of the other side's trust domain"
            }
            Self::WrongId => {
                "check the configured address and trust domain: the server there has another SPIFFE ID"
            }
            Self::Clock => {
                "check the clocks of both machines, and whether the other side renews its certificate"
            }
            Self::NotAnSvid => {
                "check the configured address and port: what answers there is no SPIFFE server"
            }
            Self::OwnCertificateRefused => {
                "check that the other side has the trust bundle of this side's trust domain, and that this identity was \
                 not banned"
            }
            Self::OwnCertificateExpired => {
                "check this machine's clock, and why its certificate was not renewed"
            }
            Self::CertificateRequired => {
                "the other side wants a certificate: get an identity first"
            }
            Self::Protocol => {
                "check the configured address and port: what answers there speaks another protocol"
            }
        }
    }
}

/// The peer's TLS alert about the certificate that this side presented.
///
/// h2 drops the type of an IO error and keeps only its text, so [`Cause::of`] recognises these by their text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("the other side did not accept this side's certificate")]
    Refused,
    #[error("the other side says that this side's certificate has expired")]
    Expired,
    #[error("the other side wants a certificate and this side presented none")]
    Required,
}

impl Refusal {
    const ALL: [Self; 3] = [Self::Refused, Self::Expired, Self::Required];

    const fn of_alert(alert: AlertDescription) -> Option<Self> {
        match alert {
            AlertDescription::CertificateExpired => Some(Self::Expired),
            AlertDescription::CertificateRequired => Some(Self::Required),
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => Some(Self::Refused),
            _ => None,
        }
    }

    fn read(error: &dyn Error) -> Option<Self> {
        let text = error.to_string();
        Self::ALL
            .into_iter()
            .find(|refusal| text.contains(&refusal.to_string()))
    }
}

impl From<Refusal> for Cause {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Refused => Self::OwnCertificateRefused,
            Refusal::Expired => Self::OwnCertificateExpired,
            Refusal::Required => Self::CertificateRequired,
        }
    }
}

/// An IO error of an established TLS connection, with the peer's alert in words.
pub(super) fn explained(error: io::Error) -> io::Error {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::AlertReceived(alert)) => Refusal::of_alert(*alert)
            .map_or(error, |refusal| {
                io::Error::new(io::ErrorKind::PermissionDenied, refusal)
            }),
        _ => error,
    }
}

/// `error` and everything that it wraps, including the inner error of an [`io::Error`], which is not among its sources.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn Error + 'static) = *error;
        let carried = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        carried
            .map(|inner| inner as &(dyn Error + 'static))
            .or_else(|| error.source())
    })
}
