//! Files as an operator leaves them.

use std::path::Path;

use countersign_identity::UnixTime;
use countersign_transport::clock::TestClock;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

use super::*;

const NOW: u64 = 1_800_000_000;
const HOUR: Duration = Duration::from_secs(3600);

fn td() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

/// An authority of another PKI.
struct Foreign {
    key: KeyPair,
    params: CertificateParams,
    pem: String,
}

impl Foreign {
    fn root(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = params(name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { key, params, pem }
    }

    fn below(parent: &Self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = params(name);
        let issuer = Issuer::from_params(&parent.params, &parent.key);
        let pem = params.signed_by(&key, &issuer).unwrap().pem();
        Self { key, params, pem }
    }
}

fn params(name: &str) -> CertificateParams {
    let date = |at: u64| time::OffsetDateTime::from_unix_timestamp(i64::try_from(at).unwrap());
    let mut params = CertificateParams::default();
    params.not_before = date(NOW - 60).unwrap();
    params.not_after = date(NOW + 24 * 3600).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, certificates: &[&Foreign], key: &Foreign) {
        let all: String = certificates.iter().map(|c| c.pem.as_str()).collect();
        std::fs::write(self.path("ca.crt"), all).unwrap();
        std::fs::write(self.path("ca.key"), key.key.serialize_pem()).unwrap();
    }

    fn write_roots(&self, roots: &[&Foreign]) {
        let all: String = roots.iter().map(|c| c.pem.as_str()).collect();
        std::fs::write(self.path("roots.crt"), all).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(self.0.path(), name)
    }

    fn open(&self, bundle: bool) -> Result<Disk, DiskError> {
        let files = DiskFiles {
            certificate: self.path("ca.crt"),
            key: self.path("ca.key"),
            bundle: bundle.then(|| self.path("roots.crt")),
        };
        let clock = TestClock::fixed(UnixTime::from_secs(NOW));
        Disk::open(files, td(), clock.shared())
    }
}

/// Has an authority signed and checks it as the server does.
async fn mint(disk: &Disk) -> Minted {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let request = authority_request(&td(), &Subject::authority(), &key).unwrap();
    let answer = disk.mint_x509_ca(request, HOUR).await.unwrap();
    let now = UnixTime::from_secs(NOW);
    let ca = issued_ca::authority(&td(), &answer.chain, &answer.roots, Arc::new(key), now).unwrap();
    assert_eq!(ca.authority().not_after(), now.after(HOUR));
    answer
}

#[tokio::test]
async fn a_self_signed_authority_signs_and_is_the_root() {
    let folder = Folder::new();
    let root = Foreign::root("root");
    folder.write(&[&root], &root);
    let minted = mint(&folder.open(false).unwrap()).await;
    assert_eq!((minted.chain.len(), minted.roots.len()), (1, 1));
}

#[tokio::test]
async fn an_intermediate_signs_and_sends_its_chain_without_the_root() {
    let folder = Folder::new();
    let root = Foreign::root("root");
    let upper = Foreign::below(&root, "upper");
    let lower = Foreign::below(&upper, "lower");
    // The root may stand in the chain; it is not sent all the same.
    folder.write(&[&lower, &upper, &root], &lower);
    folder.write_roots(&[&root, &Foreign::root("another")]);
    let minted = mint(&folder.open(true).unwrap()).await;
    assert_eq!((minted.chain.len(), minted.roots.len()), (3, 2));
}

#[tokio::test]
async fn new_files_are_taken_and_broken_ones_are_not() {
    let folder = Folder::new();
    let (first, second) = (Foreign::root("first"), Foreign::root("second"));
    folder.write(&[&first], &first);
    let disk = folder.open(false).unwrap();
    let before = mint(&disk).await;
    // The key of another certificate: an operator is halfway through replacing the files.
    folder.write(&[&second], &first);
    assert_eq!(mint(&disk).await.roots, before.roots);
    folder.write(&[&second], &second);
    assert_ne!(mint(&disk).await.roots, before.roots);
    std::fs::remove_file(folder.path("ca.key")).unwrap();
    assert_ne!(mint(&disk).await.roots, before.roots);
}

#[test]
fn what_cannot_sign_is_refused_with_its_file() {
    let folder = Folder::new();
    let (root, other) = (Foreign::root("root"), Foreign::root("other"));
    let below = Foreign::below(&root, "below");

    let error = folder.open(false).unwrap_err();
    assert!(matches!(error, DiskError::Read { .. }), "{error}");
    folder.write(&[&root], &other);
    let error = folder.open(false).unwrap_err();
    assert!(matches!(error, DiskError::Pair { .. }), "{error}");
    folder.write(&[&below, &root], &below);
    let error = folder.open(false).unwrap_err();
    assert!(matches!(error, DiskError::NotSelfSigned { .. }), "{error}");
    // Signed by a root that is not in the bundle file.
    folder.write(&[&below], &below);
    folder.write_roots(&[&other]);
    let error = folder.open(true).unwrap_err();
    assert!(matches!(error, DiskError::Chain { .. }), "{error}");
    std::fs::write(folder.path("ca.crt"), "no certificate").unwrap();
    let error = folder.open(true).unwrap_err();
    assert!(matches!(error, DiskError::Pem { .. }), "{error}");
    let huge = vec![b'\n'; usize::try_from(limits::MAX_PEM_FILE_BYTES).unwrap() + 1];
    std::fs::write(folder.path("ca.crt"), huge).unwrap();
    let error = folder.open(true).unwrap_err();
    assert!(matches!(error, DiskError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn jwt_keys_are_not_for_files() {
    let folder = Folder::new();
    let root = Foreign::root("root");
    folder.write(&[&root], &root);
    let disk = folder.open(false).unwrap();
    let key = JwtAuthority {
        key_id: "k".into(),
        public_key: Vec::new(),
        expires_at: None,
        tainted: false,
    };
    let published = disk.publish_jwt_key(&key).await.unwrap();
    assert_eq!(published, Published::Unsupported);
    assert!(disk.bundle().is_none());
}
