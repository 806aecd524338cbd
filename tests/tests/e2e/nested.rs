//! Servers below servers: each takes its authority from the one above, through the node agent beside it, and what is
//! signed at the bottom is accepted by whoever knows the root alone.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_identity::csr::Csr;
use countersign_identity::jwt::verify_jwt;
use countersign_identity::verify::{VerifiedLeaf, verify_peer};
use countersign_identity::{Bundle, BundleSet, KeyType, PrivateKey, SpiffeId};
use countersign_proto::spire::api::server::bundle::v1::GetBundleRequest;
use countersign_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use countersign_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use countersign_proto::spire::api::server::localauthority::v1::{
    ActivateX509AuthorityRequest, GetX509AuthorityStateRequest, PrepareX509AuthorityRequest,
    TaintX509AuthorityRequest,
};
use countersign_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use countersign_proto::spire::api::server::svid::v1::{MintJwtsvidRequest, MintX509svidRequest};
use countersign_proto::spire::api::types;
use countersign_tests::deployment::{Deployment, FAST_SYNC, Settings, TRUST_DOMAIN, allow, text};
use countersign_tests::process::PATIENCE;
use countersign_tests::scripted_workload::{Call, Outcome};
use countersign_transport::dial::UnixConnector;
use countersign_transport::{Clock as _, SystemClock};
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::NODE;

fn settings() -> Settings {
    Settings {
        agent: FAST_SYNC.into(),
        ..Settings::default()
    }
}

/// A server and its node agent below another deployment.
async fn below(parent: &Deployment, path: &str) -> anyhow::Result<Deployment> {
    let server = parent.register(path, &["-downstream"]).await?;
    let port = parent.server_address.context("the parent runs")?.port();
    let upstream = format!(
        r#"  UpstreamAuthority "spire" {{
    plugin_data {{
      server_address = "127.0.0.1"
      server_port = "{port}"
      workload_api_socket = "{socket}"
    }}
  }}"#,
        socket = parent.agent_socket().display(),
    );
    let deployment = Deployment::new(text(&server.program)?, settings())?;
    let mut deployment = deployment.with_server_plugins(upstream);
    deployment.start_both().await?;
    Ok(deployment)
}

async fn admin(deployment: &Deployment) -> anyhow::Result<Channel> {
    let connector = UnixConnector::new(deployment.server_socket());
    let endpoint = Endpoint::from_static("http://localhost");
    Ok(endpoint.connect_with_connector(connector).await?)
}

async fn bundle(deployment: &Deployment) -> anyhow::Result<Bundle> {
    let mut client = BundleClient::new(admin(deployment).await?);
    let bundle = client.get_bundle(GetBundleRequest::default()).await?;
    Ok(bundle.into_inner().try_into()?)
}

fn verified(chain: &[CertificateDer<'_>], bundle: &Bundle) -> anyhow::Result<VerifiedLeaf> {
    let bundles: BundleSet = [bundle.clone()].into_iter().collect();
    Ok(verify_peer(chain, &bundles, SystemClock.now())?)
}

/// Waits until the bundle of a deployment is as it should be.
async fn until(deployment: &Deployment, right: impl Fn(&Bundle) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let bundle = bundle(deployment).await?;
        if right(&bundle) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "it stays {bundle:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_svid_two_levels_downstream_is_valid_under_the_root() -> anyhow::Result<()> {
    let root = Deployment::start(NODE, settings()).await?;
    let first = below(&root, "/first").await?;
    let second = below(&first, "/second").await?;

    // Nobody but the root has an authority of its own in the bundle, and all three have the same.
    let roots = bundle(&root).await?.x509_authorities;
    ensure!(roots.len() == 1, "{roots:?}");
    for deployment in [&first, &second] {
        assert_eq!(bundle(deployment).await?.x509_authorities, roots);
    }
    // The keys for JWT-SVIDs of all three are known at the top, and from there everywhere.
    until(&root, |bundle| bundle.jwt_authorities.len() == 3).await?;
    let keys = bundle(&root).await?.jwt_authorities;
    for deployment in [&first, &second] {
        until(deployment, |bundle| {
            keys.iter().all(|key| bundle.jwt_authorities.contains(key))
        })
        .await?;
    }

    let id = |path: &str| format!("spiffe://{TRUST_DOMAIN}{path}");
    let rate = "  rate = \"100/s burst 100\"";
    let mut policy = format!(
        "originate \"work\" {{\n  workloads = [\"{}\"]\n  new_chains = \"100/s burst 100\"\n}}\n",
        id("/caller")
    );
    allow(&mut policy, "calls", &id("/caller"), &id("/callee"), rate);
    second.write_policy(&policy)?;
    let callee = second.scripted_workload("/callee", &[]).await?;
    let mut caller = second.scripted_workload("/caller", &[]).await?;
    let outcomes = caller.run(vec![Call::new(&callee)]).await?;
    ensure!(
        matches!(outcomes[..], [Outcome::Answered(_)]),
        "{outcomes:?}"
    );

    // The leaf, the authorities of both servers below the root, and not the root.
    let deep = second.attacker("/deep").await?;
    let chain = deep.svid().chain();
    assert_eq!(chain.len(), 3);
    let leaf = verified(chain, &bundle(&root).await?)?;
    assert_eq!(leaf.id, SpiffeId::parse(&id("/deep"))?);
    // Who has an SVID of the root's own node agent and workloads at the bottom accept each other.
    let high = root.attacker("/high").await?;
    let callee_id = SpiffeId::parse(&callee.id)?;
    let shown = high.shown(&callee_id, &callee.address).await?;
    assert_eq!(shown.id, callee_id);

    jwt_from_below_is_accepted_by_the_root(&root, &second).await?;
    a_taint_of_the_root_goes_all_the_way_down(&root, &first, &second).await
}

async fn jwt_from_below_is_accepted_by_the_root(
    root: &Deployment,
    below: &Deployment,
) -> anyhow::Result<()> {
    let mut client = SvidClient::new(admin(below).await?);
    let request = MintJwtsvidRequest {
        id: Some(types::Spiffeid {
            trust_domain: TRUST_DOMAIN.into(),
            path: "/speaker".into(),
        }),
        audience: vec!["listener".into()],
        ttl: 0,
    };
    let minted = client.mint_jwtsvid(request).await?.into_inner();
    let token = minted.svid.context("no token")?.token;
    let bundles: BundleSet = [bundle(root).await?].into_iter().collect();
    let now = SystemClock.now();
    let verified = verify_jwt(&token, &bundles, &["listener"], now, Duration::ZERO)?;
    assert_eq!(verified.id.path(), "/speaker");
    Ok(())
}

/// Another root signs, the one before is tainted: what is signed at the bottom leads to the new one, without anybody's help.
async fn a_taint_of_the_root_goes_all_the_way_down(
    root: &Deployment,
    first: &Deployment,
    second: &Deployment,
) -> anyhow::Result<()> {
    let mut client = LocalAuthorityClient::new(admin(root).await?);
    let state = client
        .get_x509_authority_state(GetX509AuthorityStateRequest {})
        .await?;
    let old = state.into_inner().active.context("no authority")?;
    let prepared = client
        .prepare_x509_authority(PrepareX509AuthorityRequest {})
        .await?;
    let new = prepared.into_inner().prepared_authority;
    let new = new.context("nothing was prepared")?.authority_id;
    for deployment in [first, second] {
        until(deployment, |bundle| bundle.x509_authorities.len() == 2).await?;
    }
    client
        .activate_x509_authority(ActivateX509AuthorityRequest { authority_id: new })
        .await?;
    client
        .taint_x509_authority(TaintX509AuthorityRequest {
            authority_id: old.authority_id.clone(),
        })
        .await?;
    for deployment in [first, second] {
        until(deployment, |bundle| {
            bundle
                .x509_authorities
                .iter()
                .any(|root| root.is_tainted() && root.authority_id() == old.authority_id)
        })
        .await?;
    }
    let mut good = bundle(root).await?;
    good.x509_authorities.retain(|root| !root.is_tainted());
    let id = SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}/minted"))?;
    let key = PrivateKey::generate(KeyType::EcP256)?;
    let request = MintX509svidRequest {
        csr: Csr::make(&key, Some(&id))?.into(),
        ttl: 0,
    };
    let minted = SvidClient::new(admin(second).await?)
        .mint_x509svid(request)
        .await?;
    let svid = minted.into_inner().svid.context("no SVID")?;
    let chain: Vec<_> = svid
        .cert_chain
        .iter()
        .map(|der| der.to_vec().into())
        .collect();
    assert_eq!(verified(&chain, &good)?.id, id);
    Ok(())
}
