//! Fetching from an endpoint that says what it likes: a real TLS server whose answers are written out by hand.

use countersign_identity::bundle::BundleSet;
use countersign_identity::csr::PublicKey;
use countersign_identity::issue::{IssuingCa, Subject, SvidTemplate, self_signed_authority};
use countersign_identity::tls::ClientAuth;
use countersign_identity::{KeyType, PrivateKey, SigningKey, UnixTime, X509Svid};
use countersign_transport::clock::TestClock;
use countersign_transport::error::Chain;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::*;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3_600);

/// A foreign trust domain: its bundle, and an endpoint that has an SVID of it.
struct Foreign {
    bundle: Bundle,
    ca: IssuingCa,
    clock: SharedClock,
    listener: TcpListener,
    port: u16,
}

impl Foreign {
    async fn new() -> Self {
        let trust_domain = TrustDomain::new("foreign.test").unwrap();
        let key: Arc<dyn SigningKey> = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
        let root =
            self_signed_authority(&trust_domain, &Subject::authority(), &*key, HOUR, NOW).unwrap();
        let ca = IssuingCa::new(root, Vec::new(), key).unwrap();
        let mut bundle = Bundle::empty(trust_domain);
        bundle.x509_authorities.push(ca.authority().clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self {
            bundle,
            ca,
            clock: TestClock::fixed(NOW).shared(),
            listener,
            port,
        }
    }

    fn id(&self, path: &str) -> SpiffeId {
        self.bundle.trust_domain.id_with_path(path).unwrap()
    }

    fn tls(&self) -> TlsContext {
        let bundles: BundleSet = [self.bundle.clone()].into_iter().collect();
        TlsContext::new(
            Arc::new(bundles),
            RustlsTime::shared(Arc::clone(&self.clock)),
        )
    }

    fn fetcher(&self) -> Fetcher {
        let bundles: BundleSet = [self.bundle.clone()].into_iter().collect();
        Fetcher::new(
            Arc::new(bundles),
            KeyExchange::default(),
            Arc::clone(&self.clock),
        )
    }

    /// The relationship with an endpoint that must have this path in its ID.
    fn relationship(&self, path: &str) -> Relationship {
        Relationship {
            trust_domain: self.bundle.trust_domain.clone(),
            url: EndpointUrl::parse(&format!("https://127.0.0.1:{}/first", self.port)).unwrap(),
            profile: EndpointProfile::Spiffe(self.id(path)),
        }
    }

    /// Accepts and answers one connection after the other, with what is said for each path. Silence is for ever.
    fn answer(self, says: impl Fn(&str) -> Vec<u8> + Send + 'static) -> AbortOnDropHandle<()> {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let id = self.id("/spire/server");
        let template = SvidTemplate {
            id: &id,
            dns_names: &[],
            ttl: HOUR,
        };
        let public = PublicKey::of(&key).unwrap();
        let issued = self.ca.issue(&template, &public, NOW).unwrap();
        let svid = X509Svid::new(issued.chain, key).unwrap();
        let (auth, anyone) = (ClientAuth::Never, ExpectedPeer::Anyone);
        let config = self
            .tls()
            .server(&svid, auth, anyone, TlsVersions::From12, &[ALPN_HTTP11])
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let (tcp, _) = self.listener.accept().await.unwrap();
                // Whoever does not like the certificate hangs up.
                let Ok(mut io) = acceptor.accept(tcp).await else {
                    continue;
                };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = io.read_u8().await else { break };
                    request.push(byte);
                }
                let request = String::from_utf8(request).unwrap();
                let path = request.split(' ').nth(1).unwrap_or_default();
                let answer = says(path);
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
                // A client that has seen enough hangs up as well.
                let _ = io.write_all(&answer).await;
                let _ = io.shutdown().await;
            }
        }))
    }
}

fn document_of(bundle: &Bundle) -> Vec<u8> {
    let json = document::write(bundle).unwrap();
    let length = json.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{json}").into_bytes()
}

fn redirect(location: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

fn printed(error: &FetchError) -> String {
    Chain(error).to_string()
}

#[tokio::test]
async fn a_redirect_leads_to_the_document() {
    let foreign = Foreign::new().await;
    let (fetcher, from) = (foreign.fetcher(), foreign.relationship("/spire/server"));
    let bundle = foreign.bundle.clone();
    let whole = format!("https://127.0.0.1:{}/third", foreign.port);
    let _server = foreign.answer(move |path| match path {
        "/first" => redirect("/second"),
        "/second" => redirect(&whole),
        _ => document_of(&bundle),
    });
    let fetched = fetcher.fetch(&from).await.unwrap();
    assert_eq!(fetched.x509_authorities.len(), 1);
    assert_eq!(fetched.trust_domain, from.trust_domain);
}

#[tokio::test]
async fn endless_redirects_and_plain_http_are_refused() {
    for (location, said) in [
        ("http://127.0.0.1/bundle", "no bundle endpoint can be"),
        ("/first", "redirects more than"),
    ] {
        let foreign = Foreign::new().await;
        let (fetcher, from) = (foreign.fetcher(), foreign.relationship("/spire/server"));
        let _server = foreign.answer(move |_| redirect(location));
        let error = printed(&fetcher.fetch(&from).await.unwrap_err());
        assert!(error.contains(said), "{location}: {error}");
    }
}

#[tokio::test]
async fn a_redirect_does_not_change_who_must_be_there() {
    let ours = Foreign::new().await;
    let other = Foreign::new().await;
    let (fetcher, from) = (ours.fetcher(), ours.relationship("/spire/server"));
    let away = format!("https://127.0.0.1:{}/", other.port);
    let bundle = other.bundle.clone();
    let _ours = ours.answer(move |_| redirect(&away));
    let _other = other.answer(move |_| document_of(&bundle));
    let error = fetcher.fetch(&from).await.unwrap_err();
    assert!(matches!(error, FetchError::Dial(_)), "{}", printed(&error));
}

#[tokio::test]
async fn an_endpoint_with_another_id_is_refused() {
    let foreign = Foreign::new().await;
    let (fetcher, from) = (foreign.fetcher(), foreign.relationship("/another"));
    let bundle = foreign.bundle.clone();
    let _server = foreign.answer(move |_| document_of(&bundle));
    let error = fetcher.fetch(&from).await.unwrap_err();
    assert!(matches!(error, FetchError::Dial(_)), "{}", printed(&error));
}

#[tokio::test]
async fn a_large_or_broken_body_or_another_status_is_refused() {
    let endless = vec![b' '; document::MAX_DOCUMENT_LEN + 1];
    let announced = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        endless.len()
    );
    let unannounced = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".as_slice();
    for (answer, said) in [
        ([announced.as_bytes(), &endless].concat(), "larger than"),
        ([unannounced, &endless].concat(), "larger than"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{".to_vec(),
            "broke off",
        ),
        (
            b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec(),
            "unexpected status 500",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]".to_vec(),
            "can't be used",
        ),
        (b"what is HTTP?\r\n\r\n".to_vec(), "broke"),
    ] {
        let foreign = Foreign::new().await;
        let (fetcher, from) = (foreign.fetcher(), foreign.relationship("/spire/server"));
        let _server = foreign.answer(move |_| answer.clone());
        let error = printed(&fetcher.fetch(&from).await.unwrap_err());
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[tokio::test]
async fn without_a_bundle_nobody_is_asked() {
    let foreign = Foreign::new().await;
    let none = Arc::new(BundleSet::default());
    let fetcher = Fetcher::new(none, KeyExchange::default(), Arc::clone(&foreign.clock));
    let error = fetcher
        .fetch(&foreign.relationship("/spire/server"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, FetchError::NoBundle(_)),
        "{}",
        printed(&error)
    );
}

#[tokio::test]
async fn an_endpoint_that_never_answers_is_given_up() {
    let foreign = Foreign::new().await;
    let (fetcher, from) = (foreign.fetcher(), foreign.relationship("/spire/server"));
    let asked = Arc::new(Notify::new());
    let notify = Arc::clone(&asked);
    let _server = foreign.answer(move |_| {
        notify.notify_one();
        Vec::new()
    });
    let fetch = AbortOnDropHandle::new(tokio::spawn(async move { fetcher.fetch(&from).await }));
    asked.notified().await;
    // From here on there is nothing to wait for but the limit: tokio's time jumps there.
    tokio::time::pause();
    let error = fetch.await.unwrap().unwrap_err();
    assert!(
        matches!(error, FetchError::Slow { .. }),
        "{}",
        printed(&error)
    );
}
