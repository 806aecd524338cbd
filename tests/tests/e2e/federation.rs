//! Two trust domains that federate: workloads call each other, and follow each other's keys.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use countersign_tests::deployment::{Deployment, FAST_SYNC, Settings, allow, succeeded, text};
use countersign_tests::puppet::{Call, Outcome, Puppet};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;

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
        let folder = tempfile::tempdir()?;
        let root_key = KeyPair::generate()?;
        let mut root = CertificateParams::default();
        root.distinguished_name.push(DnType::CommonName, "root");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_cert = root.self_signed(&root_key)?;
        let issuer = Issuer::new(root, root_key);
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text);
        write("root.pem", root_cert.pem())?;
        write("leaf.pem", leaf.pem())?;
        write("leaf.key", key.serialize_pem())?;
        Ok(Self { folder })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn profile(&self) -> String {
        format!(
            "profile \"https_web\" {{\n serving_cert_file {{\n cert_file_path = \"{}\"\n key_file_path = \"{}\"\n }}\n }}",
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

    /// A caller here and a callee there, with a policy that lets them.
    async fn puppets(&self) -> anyhow::Result<(Puppet, Puppet)> {
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
            .puppet("/callee", &["-federatesWith", HERE])
            .await?;
        let caller = self
            .here
            .puppet("/caller", &["-federatesWith", THERE])
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
    let args = ["bundle", "list", "-id", name, "-output", "json"];
    let shown = succeeded("bundle list", at.server_cli(&args).await?)?;
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
async fn call(caller: &mut Puppet, callee: &Puppet) -> anyhow::Result<()> {
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
async fn workloads_of_domains_that_federate_by_https_spiffe_call_each_other_and_follow_keys()
-> anyhow::Result<()> {
    let pair = Pair::federated(Profile::Spiffe).await?;
    let (mut caller, mut callee) = pair.puppets().await?;
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
async fn workloads_of_domains_that_federate_by_https_web_call_each_other_and_follow_keys()
-> anyhow::Result<()> {
    let pair = Pair::federated(Profile::Web).await?;
    let (mut caller, mut callee) = pair.puppets().await?;
    call(&mut caller, &callee).await?;
    call(&mut callee, &caller).await?;
    authority(&pair.there, &["prepare"]).await?;
    refresh(&pair.here, THERE).await?;
    ensure!(authorities(&pair.here, THERE).await?.len() == 2);
    call(&mut caller, &callee).await?;
    Ok(())
}
