//! Two trust domains that federate: workloads call each other, and follow each other's keys.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use countersign_tests::deployment::{Deployment, FAST_SYNC, Settings, allow, succeeded, text};
use countersign_tests::scripted_workload::{Call, Outcome, ScriptedWorkload};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::NODE;

const HERE: &str = "here.test";
const THERE: &str = "there.test";

/// Two trust domains, each with a bundle endpoint.
struct Pair {
    here: Deployment,
    there: Deployment,
    /// The files are read again while the servers run.
    _web: Option<Web>,
}

/// What both bundle endpoints prove themselves by.
enum Profile {
    Spiffe,
    Web,
}

/// Certificates of the web's PKI for 127.0.0.1, and the root that the servers trust.
pub(crate) struct Web {
    folder: tempfile::TempDir,
}

impl Web {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let web = Self {
            folder: tempfile::tempdir()?,
        };
        web.renew()?;
        Ok(web)
    }

    /// Another root, and what it signs.
    fn renew(&self) -> anyhow::Result<()> {
        let root_key = KeyPair::generate()?;
        let mut root = CertificateParams::default();
        root.distinguished_name.push(DnType::CommonName, "root");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_cert = root.self_signed(&root_key)?;
        let issuer = Issuer::new(root, root_key);
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
        let write = |name: &str, text: String| std::fs::write(self.path(name), text);
        write("root.pem", root_cert.pem())?;
        write("leaf.pem", leaf.pem())?;
        write("leaf.key", key.serialize_pem())?;
        Ok(())
    }

    /// A client that trusts the root as it is now, and nobody else.
    fn client(&self) -> anyhow::Result<TlsConnector> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("root.pem"))?)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn profile(&self) -> String {
        format!(
            "profile \"https_web\" {{\n serving_cert_file {{\n cert_file_path = \"{}\"\n key_file_path = \"{}\"\n \
             file_sync_interval = \"1s\"\n }}\n }}",
            self.path("leaf.pem").display(),
            self.path("leaf.key").display()
        )
    }
}

async fn start(name: &str, web: Option<&Web>) -> anyhow::Result<Deployment> {
    let profile = web.map(Web::profile).unwrap_or_default();
    let server = format!(
        "  federation {{\n bundle_endpoint {{\n address = \"127.0.0.1\"\n port = 0\n {profile}\n }}\n }}"
    );
    let server_env = match web {
        Some(web) => vec![(
            "SSL_CERT_FILE".to_owned(),
            text(&web.path("root.pem"))?.to_owned(),
        )],
        None => Vec::new(),
    };
    let settings = Settings {
        trust_domain: name.into(),
        server,
        server_env,
        agent: FAST_SYNC.into(),
        ..Settings::default()
    };
    Deployment::start(NODE, settings).await
}

impl Pair {
    async fn federated(profile: Profile) -> anyhow::Result<Self> {
        let web = match profile {
            Profile::Spiffe => None,
            Profile::Web => Some(Web::new()?),
        };
        let here = start(HERE, web.as_ref()).await?;
        let there = start(THERE, web.as_ref()).await?;
        federate(&here, &there, THERE, &profile).await?;
        federate(&there, &here, HERE, &profile).await?;
        Ok(Self {
            here,
            there,
            _web: web,
        })
    }

    /// A caller here and a callee there, with a policy that allows calls both ways.
    async fn workloads(&self) -> anyhow::Result<(ScriptedWorkload, ScriptedWorkload)> {
        let (caller, callee) = (
            format!("spiffe://{HERE}/caller"),
            format!("spiffe://{THERE}/callee"),
        );
        let mut policy = format!(
            "originate \"work\" {{\n  workloads = [\"{caller}\", \"{callee}\"]\n  new_chains = \"100/s burst 100\"\n}}\n"
        );
        allow(&mut policy, "there", &caller, &callee, "");
        allow(&mut policy, "back", &callee, &caller, "");
        self.here.write_policy(&policy)?;
        self.there.write_policy(&policy)?;
        let callee = self
            .there
            .scripted_workload("/callee", &["-federatesWith", HERE])
            .await?;
        let caller = self
            .here
            .scripted_workload("/caller", &["-federatesWith", THERE])
            .await?;
        Ok((caller, callee))
    }
}

/// Has `at` follow the bundle of `other`, called `name`.
async fn federate(
    at: &Deployment,
    other: &Deployment,
    name: &str,
    profile: &Profile,
) -> anyhow::Result<()> {
    let url = format!(
        "https://{}",
        other
            .bundle_endpoint
            .context("there is no bundle endpoint")?
    );
    let mut args = vec![
        "federation",
        "create",
        "-trustDomain",
        name,
        "-bundleEndpointURL",
        &url,
    ];
    let file = at.folder().join("other.bundle");
    let id = format!("spiffe://{name}/spire/server");
    match profile {
        Profile::Spiffe => {
            let bundle = other
                .server_cli(&["bundle", "show", "-format", "spiffe"])
                .await?;
            std::fs::write(&file, succeeded("bundle show", bundle)?)?;
            args.extend([
                "-bundleEndpointProfile",
                "https_spiffe",
                "-endpointSpiffeID",
                &id,
            ]);
            args.extend(["-trustDomainBundleFormat", "spiffe"]);
            args.extend(["-trustDomainBundlePath", text(&file)?]);
        }
        Profile::Web => args.extend(["-bundleEndpointProfile", "https_web"]),
    }
    let told = succeeded("federation create", at.server_cli(&args).await?)?;
    ensure!(told.contains(&url), "{told}");
    refresh(at, name).await
}

async fn refresh(at: &Deployment, name: &str) -> anyhow::Result<()> {
    let id = format!("spiffe://{name}");
    let refreshed = at
        .server_cli(&["federation", "refresh", "-id", &id])
        .await?;
    ensure!(succeeded("federation refresh", refreshed)? == "Bundle refreshed\n");
    Ok(())
}

/// The X.509 authorities that are known here of a trust domain.
async fn authorities(at: &Deployment, name: &str) -> anyhow::Result<Vec<Value>> {
    shown(at, &["bundle", "list", "-id", name]).await
}

/// The X.509 authorities of a bundle that a command shows.
async fn shown(at: &Deployment, command: &[&str]) -> anyhow::Result<Vec<Value>> {
    let args = [command, &["-output", "json"]].concat();
    let shown = succeeded("bundle", at.server_cli(&args).await?)?;
    let bundle: Value = serde_json::from_str(&shown)?;
    let list = bundle.get("x509_authorities").and_then(Value::as_array);
    Ok(list.context("a bundle without authorities")?.clone())
}

/// Runs a verb on a server's X.509 authority and returns the authority's ID.
async fn authority(at: &Deployment, verb: &[&str]) -> anyhow::Result<String> {
    let args = [&["localauthority", "x509"], verb, &["-output", "json"]].concat();
    let shown = succeeded("localauthority", at.server_cli(&args).await?)?;
    let answer: Value = serde_json::from_str(&shown)?;
    let id = answer
        .as_object()
        .and_then(|fields| fields.values().find_map(|state| state.get("authority_id")))
        .and_then(Value::as_str);
    Ok(id
        .with_context(|| format!("no authority in {answer}"))?
        .to_owned())
}

/// Calls until the callee answers: a change of keys reaches workloads within moments.
async fn call(caller: &mut ScriptedWorkload, callee: &ScriptedWorkload) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + countersign_tests::process::PATIENCE;
    loop {
        let outcome = caller.run(vec![Call::new(callee)]).await?;
        if let [Outcome::Answered(_)] = outcome.as_slice() {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "{outcome:?}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_federated_by_https_spiffe_call_and_follow_keys() -> anyhow::Result<()> {
    let pair = Pair::federated(Profile::Spiffe).await?;
    let (mut caller, mut callee) = pair.workloads().await?;
    call(&mut caller, &callee).await?;
    call(&mut callee, &caller).await?;

    // There, the authority is replaced; here, that is followed, and what the old one signed counts no more.
    let old = authority(&pair.there, &["show"]).await?;
    let new = authority(&pair.there, &["prepare"]).await?;
    refresh(&pair.here, THERE).await?;
    ensure!(authorities(&pair.here, THERE).await?.len() == 2);
    authority(&pair.there, &["activate", "-authorityID", &new]).await?;
    authority(&pair.there, &["taint", "-authorityID", &old]).await?;
    callee.process.lines("rotated ", 1).await?;
    authority(&pair.there, &["revoke", "-authorityID", &old]).await?;
    refresh(&pair.here, THERE).await?;
    ensure!(authorities(&pair.here, THERE).await?.len() == 1);
    call(&mut caller, &callee).await?;
    call(&mut callee, &caller).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_federated_by_https_web_call_and_follow_keys() -> anyhow::Result<()> {
    let pair = Pair::federated(Profile::Web).await?;
    let (mut caller, mut callee) = pair.workloads().await?;
    call(&mut caller, &callee).await?;
    call(&mut callee, &caller).await?;
    authority(&pair.there, &["prepare"]).await?;
    refresh(&pair.here, THERE).await?;
    ensure!(authorities(&pair.here, THERE).await?.len() == 2);
    call(&mut caller, &callee).await?;
    Ok(())
}

#[tokio::test]
async fn a_configured_relationship_is_followed_from_the_start() -> anyhow::Result<()> {
    let web = Web::new()?;
    let there = start(THERE, Some(&web)).await?;
    let endpoint = there.bundle_endpoint.context("no bundle endpoint")?;
    let settings = Settings {
        trust_domain: HERE.into(),
        server: format!(
            "  federation {{\n federates_with \"{THERE}\" {{\n bundle_endpoint_url = \"https://{endpoint}\"\n \
             bundle_endpoint_profile \"https_web\" {{}}\n }}\n }}"
        ),
        server_env: vec![(
            "SSL_CERT_FILE".to_owned(),
            text(&web.path("root.pem"))?.to_owned(),
        )],
        ..Settings::default()
    };
    let mut here = Deployment::new(NODE, settings)?;
    here.start_server().await?;
    // Nobody asks for it: it is fetched at the start.
    let expected = shown(&there, &["bundle", "show"]).await?;
    let known = async || {
        let known = authorities(&here, THERE).await;
        known.map_err(|e| format!("{e:#}"))
    };
    ensure!(until(known).await? == expected);
    refresh(&here, THERE).await?;
    Ok(())
}

#[tokio::test]
async fn a_bundle_endpoint_takes_a_new_certificate_but_no_broken_one() -> anyhow::Result<()> {
    let web = Web::new()?;
    let there = start(THERE, Some(&web)).await?;
    let endpoint = there.bundle_endpoint.context("no bundle endpoint")?;
    let meets = async |client: &TlsConnector| -> anyhow::Result<()> {
        let stream = TcpStream::connect(endpoint).await?;
        let name = ServerName::IpAddress(endpoint.ip().into());
        client.connect(name, stream).await?;
        Ok(())
    };
    let first = web.client()?;
    meets(&first).await?;

    web.renew()?;
    let second = web.client()?;
    until(async || meets(&second).await.map_err(|e| format!("{e:#}"))).await?;
    ensure!(meets(&first).await.is_err(), "the old one is shown as well");

    std::fs::write(web.path("leaf.pem"), "nothing of use")?;
    until(async || {
        let server = there.server.as_ref().ok_or("there is no server")?;
        let log = server.output();
        let told = log.contains("could not be reloaded");
        told.then_some(()).ok_or(log)
    })
    .await?;
    meets(&second).await
}

/// Tries until it works.
async fn until<T>(attempt: impl AsyncFn() -> Result<T, String>) -> anyhow::Result<T> {
    let deadline = tokio::time::Instant::now() + countersign_tests::process::PATIENCE;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => ensure!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}
