//! A small world for the tests of this crate: a trust domain, workloads with real keys and certificates, and forgers.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use countersign_identity::bundle::{Bundles, X509Authority};
use countersign_identity::csr::PublicKey;
use countersign_identity::issue::{IssuingCa, Subject, SvidTemplate, self_signed_authority};
use countersign_identity::{
    Bundle, KeyId, KeyType, Now, PrivateKey, SigningKey as _, SpiffeId, TrustDomain, UnixTime,
};
use rustls_pki_types::CertificateDer;

use crate::Context;
use crate::chain::{Carrier, CertSet, ChainId, Claims, FieldValue, NO_LINKS, ChainStart, codec};
use crate::decide::{Engine, FieldValues, InboundRequest, PeerView, Permit};
use crate::outbound::{self, CallRequest, Grant, OutboundError, CallOrigin, OutgoingCall, SigningIdentity};
use crate::policy::Policy;
use crate::refusal::{Reason, Refusal};

/// When the tests begin.
pub(crate) const NOW: u64 = 1_800_000_000;

/// What every call does, unless the test says otherwise.
pub(crate) const PATH: &str = "/tasks";

/// Bundles that a test can change.
#[derive(Debug, Default)]
pub(crate) struct Trust(RwLock<BTreeMap<String, Arc<Bundle>>>);

impl Trust {
    pub(crate) fn set(&self, trust_domain: &str, authorities: Vec<X509Authority>) {
        let mut bundle = Bundle::empty(TrustDomain::new(trust_domain).unwrap());
        bundle.x509_authorities = authorities;
        self.0
            .write()
            .unwrap()
            .insert(trust_domain.to_owned(), Arc::new(bundle));
    }

    pub(crate) fn remove(&self, trust_domain: &str) {
        self.0.write().unwrap().remove(trust_domain);
    }
}

impl Bundles for Trust {
    fn bundle(&self, trust_domain: &str) -> Option<Arc<Bundle>> {
        self.0.read().unwrap().get(trust_domain).cloned()
    }
}

/// An authority of a trust domain.
pub(crate) fn authority(trust_domain: &str) -> IssuingCa {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let trust_domain = TrustDomain::new(trust_domain).unwrap();
    let from = UnixTime::from_secs(NOW - 86_400);
    let ttl = Duration::from_secs(30 * 86_400);
    let cert =
        self_signed_authority(&trust_domain, &Subject::authority(), &key, ttl, from).unwrap();
    IssuingCa::new(cert, Vec::new(), Arc::new(key)).unwrap()
}

/// A workload with one SVID.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) id: SpiffeId,
    pub(crate) key: PrivateKey,
    pub(crate) identity: SigningIdentity,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) not_after: UnixTime,
}

impl Workload {
    pub(crate) fn new(
        ca: &IssuingCa,
        id: &str,
        key_type: KeyType,
        (from, ttl): (u64, u64),
    ) -> Self {
        Self::with_key(ca, id, PrivateKey::generate(key_type).unwrap(), (from, ttl))
    }

    pub(crate) fn with_key(
        ca: &IssuingCa,
        id: &str,
        key: PrivateKey,
        (from, ttl): (u64, u64),
    ) -> Self {
        let id = SpiffeId::parse(id).unwrap();
        let template = SvidTemplate {
            id: &id,
            dns_names: &[],
            ttl: Duration::from_secs(ttl),
        };
        let public = PublicKey::from_spki(key.spki()).unwrap();
        let issued = ca
            .issue(&template, &public, UnixTime::from_secs(from))
            .unwrap();
        let identity = SigningIdentity::new(id.clone(), Arc::new(key.clone())).unwrap();
        Self {
            id,
            key,
            identity,
            chain: issued.chain,
            not_after: issued.not_after,
        }
    }

    pub(crate) fn kid(&self) -> KeyId {
        self.key.kid()
    }

    pub(crate) fn leaf(&self) -> &[u8] {
        &self.chain[0]
    }

    pub(crate) fn peer(&self) -> PeerView<'_> {
        PeerView {
            id: &self.id,
            kid: self.kid(),
            chain: &self.chain,
            not_after: self.not_after,
        }
    }
}

/// A trust domain `td`, its workloads, one callee's engine, one policy, and the time.
pub(crate) struct World {
    pub(crate) ca: IssuingCa,
    pub(crate) trust: Arc<Trust>,
    pub(crate) engine: Engine,
    pub(crate) policy: Policy,
    pub(crate) now: u64,
    pub(crate) mono: Duration,
    workloads: BTreeMap<String, Workload>,
}

/// A policy under which everybody may call everybody, and `a` may start chains.
pub(crate) const OPEN: &str = r#"
originate "a starts" {
  workloads  = ["spiffe://td/a"]
  new_chains = "1000/s burst 1000"
}
allow "everybody" {
  from    = ["spiffe://td/**"]
  to      = ["spiffe://td/**"]
  actions = ["POST /tasks", "GET /tasks/*"]
  rate    = "100000/s burst 100000"
}
"#;

impl World {
    pub(crate) fn new(policy: &str) -> Self {
        let ca = authority("td");
        let trust = Arc::new(Trust::default());
        trust.set("td", vec![ca.authority().clone()]);
        let engine = Engine::new(Arc::clone(&trust) as Arc<dyn Bundles>);
        let mut world = Self {
            ca,
            trust,
            engine,
            policy: Policy::parse(policy).unwrap(),
            now: NOW,
            mono: Duration::from_secs(1_000),
            workloads: BTreeMap::new(),
        };
        for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let id = format!("spiffe://td/{name}");
            let workload = Workload::new(&world.ca, &id, KeyType::EcP256, (NOW - 60, 3_600));
            world.workloads.insert(name.to_owned(), workload);
        }
        world
    }

    pub(crate) fn with(mut self, name: &str, workload: Workload) -> Self {
        self.workloads.insert(name.to_owned(), workload);
        self
    }

    pub(crate) fn at(&self) -> Now {
        Now {
            wall: UnixTime::from_secs(self.now),
            mono: self.mono,
        }
    }

    /// Moves both clocks.
    pub(crate) fn pass(&mut self, secs: u64) {
        self.now += secs;
        self.mono += Duration::from_secs(secs);
    }

    pub(crate) fn get(&self, name: &str) -> &Workload {
        &self.workloads[name]
    }

    pub(crate) fn start(&self, name: &str) -> Context {
        outbound::start(&self.policy, &self.get(name).identity, self.at()).unwrap()
    }

    pub(crate) fn prepare(
        &self,
        from: &str,
        origin: CallOrigin<'_>,
        to: &str,
        grant: Grant,
    ) -> Result<OutgoingCall, OutboundError> {
        let call = CallRequest {
            callee: &self.get(to).id,
            method: "POST",
            path: PATH,
            grant,
        };
        outbound::prepare(
            &self.policy,
            &self.get(from).identity,
            origin,
            &call,
            self.at(),
        )
    }

    /// What the callee's engine says to encoded chain and certificates.
    pub(crate) fn deliver(
        &self,
        engine: &Engine,
        from: &str,
        to: &str,
        chain: &[u8],
        certs: Option<&[u8]>,
    ) -> Result<Permit, Refusal> {
        let chain = Carrier::Http.write(chain);
        let certs = certs.map(|certs| Carrier::Http.write(certs));
        let fields = FieldValues {
            chain: FieldValue::One(chain.as_bytes()),
            certs: certs.as_ref().map_or(FieldValue::Absent, |certs| {
                FieldValue::One(certs.as_bytes())
            }),
            ..FieldValues::default()
        };
        engine.decide(&self.policy, &self.request(from, to, fields), self.at())
    }

    pub(crate) fn request<'a>(
        &'a self,
        from: &str,
        to: &str,
        fields: FieldValues<'a>,
    ) -> InboundRequest<'a> {
        InboundRequest {
            peer: Some(self.get(from).peer()),
            presented: &self.get(to).id,
            method: "POST",
            path: PATH,
            carrier: Carrier::Http,
            fields,
        }
    }

    /// Makes a call and has the callee decide, with the world's one engine.
    pub(crate) fn call(
        &self,
        from: &str,
        context: &Context,
        to: &str,
        grant: Grant,
    ) -> Result<Permit, Refusal> {
        self.call_at(&self.engine, from, context, to, grant)
    }

    pub(crate) fn call_at(
        &self,
        engine: &Engine,
        from: &str,
        context: &Context,
        to: &str,
        grant: Grant,
    ) -> Result<Permit, Refusal> {
        let call = match self.prepare(from, CallOrigin::Context(context), to, grant) {
            Ok(call) => call,
            Err(OutboundError::Refused(refusal)) => panic!("{from} did not send to {to}: {refusal}"),
            Err(other) => panic!("{other}"),
        };
        self.deliver(engine, from, to, call.chain_bytes(), call.certs_bytes())
    }

    /// Calls along these workloads, each with an engine of its own, and gives the last one's context.
    pub(crate) fn walk(&self, names: &[&str]) -> Context {
        let mut context = self.start(names[0]);
        for pair in names.windows(2) {
            let engine = self.fresh_engine();
            let permit = self
                .call_at(&engine, pair[0], &context, pair[1], Grant::ByRule)
                .unwrap();
            context = permit.context().unwrap().clone();
        }
        context
    }

    pub(crate) fn fresh_engine(&self) -> Engine {
        Engine::new(Arc::clone(&self.trust) as Arc<dyn Bundles>)
    }

    /// A chain along these workloads, made link by link with the given claims, by someone who keeps to nothing.
    pub(crate) fn forge(&self, names: &[&str], change: impl Fn(usize, &mut Forged)) -> Forgery {
        let mut bytes = Vec::new();
        let mut links = Vec::new();
        let mut before = NO_LINKS;
        for (i, pair) in names.windows(2).enumerate() {
            let link_no = u8::try_from(i).unwrap();
            let mut forged = Forged {
                signer: self.get(pair[0]).identity.clone(),
                claims: Claims {
                    aud: self.get(pair[1]).id.clone(),
                    exp: self.now + 300,
                    iat: self.now,
                    cti: fresh(),
                    max_hops: 5,
                    budget: 64 >> link_no,
                    action: format!("POST {PATH}"),
                },
                start: (i == 0).then(|| ChainStart {
                    iss: self.get(pair[0]).id.clone(),
                    chain: ChainId::from_bytes(fresh()),
                }),
            };
            change(i, &mut forged);
            let link = forged
                .signer
                .sign_link(&forged.claims, forged.start.as_ref(), &before)
                .unwrap();
            bytes = codec::append(&bytes, i, &link);
            before = codec::prefix_after(&before, &link);
            links.push(link);
        }
        let signers: Vec<_> = names.iter().rev().skip(2).rev().collect();
        let certs = CertSet::encode(signers.iter().map(|name| self.get(name).leaf()), []);
        Forgery {
            bytes,
            links,
            certs,
        }
    }

    /// Delivers a forged chain from the last but one to the last of these workloads.
    pub(crate) fn try_forged(
        &self,
        names: &[&str],
        change: impl Fn(usize, &mut Forged),
    ) -> Result<Permit, Refusal> {
        let forgery = self.forge(names, change);
        self.deliver_forged(names, &forgery)
    }

    pub(crate) fn deliver_forged(
        &self,
        names: &[&str],
        forgery: &Forgery,
    ) -> Result<Permit, Refusal> {
        let (from, to) = (names[names.len() - 2], names[names.len() - 1]);
        self.deliver(
            &self.engine,
            from,
            to,
            &forgery.bytes,
            forgery.certs.as_deref(),
        )
    }
}

/// One link that is to be forged.
pub(crate) struct Forged {
    pub(crate) signer: SigningIdentity,
    pub(crate) claims: Claims,
    pub(crate) start: Option<ChainStart>,
}

/// A forged chain.
#[derive(Clone, Debug)]
pub(crate) struct Forgery {
    pub(crate) bytes: Vec<u8>,
    pub(crate) links: Vec<Vec<u8>>,
    pub(crate) certs: Option<Vec<u8>>,
}

/// Random bytes.
pub(crate) fn fresh<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes
}

/// The reason of a refusal; a permit fails the test.
#[track_caller]
pub(crate) fn reason(result: Result<Permit, Refusal>) -> Reason {
    match result {
        Ok(permit) => panic!("permitted under {:?}", permit.rule()),
        Err(refusal) => refusal.reason(),
    }
}
