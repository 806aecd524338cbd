//! SVIDs minted and authorities rotated by hand.

use countersign_identity::bundle::X509Authority;
use countersign_identity::jwt::Jwt;
use countersign_identity::verify::verify_peer;
use countersign_identity::{Bundle, TrustDomain, X509Svid, svid};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::*;

const WORKLOAD: [&str; 2] = ["-spiffeID", "spiffe://example.org/w"];

#[tokio::test]
async fn a_token_is_minted_to_the_output_or_to_a_file_of_this_user() {
    let server = Server::start().await;
    let mint = async |flags: &[&str]| server.run(&[&["jwt", "mint"], flags].concat()).await;
    let token = mint(&[WORKLOAD[0], WORKLOAD[1], "-audience", "a", "-audience", "b"]).await;
    let token = token.good();
    let jwt = Jwt::parse(token.trim_end()).unwrap();
    assert_eq!(jwt.id().as_str(), WORKLOAD[1]);
    let lifetime = jwt.expires_at().since(jwt.issued_at().unwrap());
    assert_eq!(lifetime.as_secs(), 300);

    let answer = mint(&[
        WORKLOAD[0],
        WORKLOAD[1],
        "-audience",
        "a",
        "-output",
        "json",
    ])
    .await;
    let answer = answer.json();
    assert_eq!(answer["svid"]["id"]["path"], "/w");
    assert!(answer["svid"]["token"].as_str().unwrap().starts_with("ey"));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let path = file.to_str().unwrap();
    let written = mint(&[WORKLOAD[0], WORKLOAD[1], "-audience", "a", "-write", path]).await;
    assert_eq!(written.good(), format!("JWT-SVID written to {path}\n"));
    Jwt::parse(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(mode(&file), 0o600);

    let capped = mint(&[WORKLOAD[0], WORKLOAD[1], "-audience", "a", "-ttl", "48h"]).await;
    assert_eq!(capped.exit, ExitCode::SUCCESS);
    let message = "JWT-SVID lifetime was capped shorter than specified ttl; expires \"";
    assert!(capped.err().starts_with(message), "{}", capped.err());

    for (flags, error) in [
        (&["-audience", "a"][..], "spiffeID must be specified"),
        (&WORKLOAD[..], "at least one audience must be specified"),
        (
            &["-spiffeID", "spiffe://other.org/w", "-audience", "a"][..],
            "unable to mint SVID: rpc error: code = InvalidArgument desc = invalid SPIFFE ID: \
             \"spiffe://other.org/w\" is not a member of trust domain \"example.org\"",
        ),
    ] {
        let refused = mint(flags).await;
        assert_eq!(refused.exit, ExitCode::from(1));
        assert_eq!(refused.err(), format!("Error: {error}\n"));
    }
    server.stop().await;
}

fn mode(path: &std::path::Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;

    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// What is in the three files, or in the three parts of the output, belongs together and verifies.
fn check_svid(chain: &str, key: &str, roots: &str) {
    let certificates = |pem: &str| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(pem.as_bytes())
            .map(Result::unwrap)
            .collect()
    };
    let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let key = PrivateKey::from_pkcs8(key.secret_pkcs8_der()).unwrap();
    let svid = X509Svid::new(certificates(chain), key).unwrap();
    assert_eq!(svid.id().as_str(), WORKLOAD[1]);
    let mut bundle = Bundle::empty(TrustDomain::new("example.org").unwrap());
    let roots = certificates(roots).into_iter();
    bundle.x509_authorities = roots.map(|der| X509Authority::new(der).unwrap()).collect();
    let bundles = BundleSet::from_iter([bundle]);
    let now = countersign_transport::Clock::now(&SystemClock);
    verify_peer(svid.chain(), &bundles, now).unwrap();
}

#[tokio::test]
async fn an_x509_svid_is_minted_to_the_output_or_to_three_files() {
    let server = Server::start().await;
    let mint = async |flags: &[&str]| {
        server
            .run(&[&["x509", "mint"], &WORKLOAD[..], flags].concat())
            .await
    };
    let printed = mint(&["-dns", "a.example.org", "-ttl", "10m"]).await.good();
    let (svid, rest) = printed.split_once("\nPrivate key:\n").unwrap();
    let svid = svid.strip_prefix("X509-SVID:\n").unwrap();
    let (key, roots) = rest.split_once("\nRoot CAs:\n").unwrap();
    check_svid(svid, key, roots);
    let leaf = CertificateDer::from_pem_slice(svid.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&leaf).unwrap();
    assert_eq!(
        certificate.subject().to_string(),
        "C=US, O=SPIRE, CN=a.example.org"
    );

    let raw = mint(&["-output", "json"]).await;
    assert!(raw.out().starts_with("{\"x509_svid\":[\""), "{}", raw.out());
    let answer = raw.json();
    let members: Vec<&String> = answer.as_object().unwrap().keys().collect();
    assert_eq!(members, ["private_key", "root_cas", "x509_svid"]);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let written = mint(&["-write", path]).await.good();
    assert_eq!(
        written,
        format!(
            "X509-SVID written to {path}/svid.pem\nPrivate key written to {path}/key.pem\nRoot CAs written to \
             {path}/bundle.pem\n"
        )
    );
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    check_svid(&read("svid.pem"), &read("key.pem"), &read("bundle.pem"));
    assert_eq!(mode(&folder.path().join("key.pem")), 0o600);
    assert_eq!(mode(&folder.path().join("svid.pem")), 0o644);
    assert!(svid::split_der(&leaf).is_ok());

    let nowhere = mint(&["-write", "/nonexistent/folder"]).await;
    assert_eq!(nowhere.exit, ExitCode::from(1));
    assert!(
        nowhere.err().starts_with("Error: unable to write SVID: "),
        "{}",
        nowhere.err()
    );
    let refused = server.run(&["x509", "mint"]).await;
    assert_eq!(refused.err(), "Error: spiffeID must be specified\n");
    let foreign = ["x509", "mint", "-spiffeID", "spiffe://other.org/w"];
    assert_eq!(
        server.run(&foreign).await.err(),
        "Error: unable to mint SVID: rpc error: code = InvalidArgument desc = CSR URI SAN is invalid: \
         \"spiffe://other.org/w\" is not a member of trust domain \"example.org\"\n"
    );
    server.stop().await;
}

#[tokio::test]
async fn authorities_are_shown_and_rotated_as_spire_prints_it() {
    let server = Server::start().await;
    for (kind, name, upstream) in [
        (
            "x509",
            "X.509",
            "  Upstream authority ID: No upstream authority\n",
        ),
        ("jwt", "JWT", ""),
    ] {
        let run = async |verb: &str, flags: &[&str]| {
            server
                .run(&[&["localauthority", kind, verb], flags].concat())
                .await
        };
        let shown = run("show", &[]).await.good();
        let id = |shown: &str, title: &str| {
            let part = shown.split_once(&format!("{title} {name} authority:\n  Authority ID: "));
            part.map(|(_, rest)| rest.lines().next().unwrap().to_owned())
        };
        let first = id(&shown, "Active").unwrap();
        let expires = shown.lines().nth(2).unwrap().to_owned();
        assert!(
            expires.starts_with("  Expires at: 20") && expires.ends_with(" +0000 UTC"),
            "{expires}"
        );
        assert_eq!(
            shown,
            format!(
                "Active {name} authority:\n  Authority ID: {first}\n{expires}\n{upstream}\nPrepared {name} authority:\n  \
                 No prepared {name} authority found\n\nOld {name} authority:\n  No old {name} authority found\n"
            )
        );
        let as_json = run("show", &["-output", "json"]).await.json();
        assert_eq!(as_json["active"]["authority_id"], first);
        assert!(as_json.get("prepared").is_none());

        let prepared = run("prepare", &[]).await.good();
        let second = id(&prepared, "Prepared").unwrap();
        assert!(
            prepared.ends_with(&format!(" +0000 UTC\n{upstream}")),
            "{prepared}"
        );
        let activated = run("activate", &["-authorityID", &second]).await.good();
        assert_eq!(id(&activated, "Activated").unwrap(), second);
        let early = run("revoke", &["-authorityID", &first]).await;
        assert!(early.err().starts_with(&format!(
            "Error: could not revoke {name} authority: rpc error: code = Internal"
        )));
        let tainted = run("taint", &["-authorityID", &first, "-output", "json"])
            .await
            .json();
        assert_eq!(tainted["tainted_authority"]["authority_id"], first);
        let revoked = run("revoke", &["-authorityID", &first]).await.good();
        assert_eq!(
            revoked,
            format!(
                "Revoked {name} authority:\n  Authority ID: {first}\n  Expires at: 1970-01-01 00:00:00 +0000 UTC\n{upstream}"
            )
        );
        for verb in ["activate", "taint", "revoke"] {
            let missing = run(verb, &[]).await;
            assert_eq!(missing.exit, ExitCode::from(1));
            assert_eq!(missing.err(), "Error: an authority ID is required\n");
        }
        let unknown = run("activate", &["-authorityID", "x"]).await;
        assert_eq!(
            unknown.err(),
            format!(
                "Error: could not activate {name} authority: rpc error: code = InvalidArgument desc = unexpected authority ID\n"
            )
        );
    }
    server.stop().await;
}
