//! What a call costs: making a link, verifying one, and the whole inbound decision under small and large policies, each
//! beside the bare cryptographic operation in the same run. The last lines give the ratios.
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]
#![expect(clippy::print_stdout, reason = "the ratios are this program's output")]

#[path = "../fixture/workload.rs"]
mod workload;

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    ParsedPublicKey,
};
use countersign_identity::bundle::Bundles;
use countersign_identity::{BundleSet, KeyType, Now, PrivateKey, UnixTime};
use countersign_mesh::{
    CallOrigin, CallRequest, Carrier, Context, Engine, FieldValues, Grant, InboundRequest,
    OutgoingCall, Permit, Policy, outbound,
};
use criterion::{Criterion, criterion_group, criterion_main};

use workload::{NOW, Workload, authority, bundle, fields};

const PATH: &str = "/tasks.v1.Tasks/Create";
const RULES: [usize; 3] = [10, 1_000, 10_000];
/// How many calls one chain makes before the next one is opened.
const CALLS_PER_CHAIN: usize = 20_000;
/// How many operations are timed at once, and how often for the ratios. Few enough that most batches end within one
/// slice of a busy machine's scheduler.
const BATCH: usize = 20;
const BATCHES: usize = 1_001;

/// A calls B, and B calls C over and over: at C the first link is known and B's waits.
struct Fixture {
    bundles: Arc<dyn Bundles>,
    policy: Policy,
    workloads: [Workload; 3],
    engine: Engine,
    at_b: Context,
    calls: usize,
}

/// One call of B, on its call_path.
struct Call {
    chain: String,
    certs: String,
}

fn policy(rules: usize) -> Policy {
    let mut text = String::from(
        r#"
        originate "planner" {
          workloads  = ["spiffe://ai-agents.org/planner/primary/1"]
          new_chains = "1000000/s burst 1000000"
          budget     = 65535
        }
        allow "planner to coder" {
          from    = ["spiffe://ai-agents.org/planner/*/*"]
          to      = ["spiffe://ai-agents.org/coder/*/*"]
          actions = ["/tasks.v1.Tasks/*"]
        }
        allow "coder to reviewer" {
          from            = ["spiffe://ai-agents.org/coder/primary/*"]
          to              = ["spiffe://ai-agents.org/reviewer/primary/*"]
          actions         = ["GET /status", "/tasks.v1.Tasks/*"]
          rate            = "1000000/s burst 1000000"
          calls_per_chain = 65535
        }"#,
    );
    for i in 3..rules {
        let (from, to) = match i % 10 {
            0 => (format!("team/{i}/**"), "reviewer/primary/*".to_owned()),
            1..=4 => (format!("agent/{i}/*"), format!("agent/{}/*", i + 1)),
            _ => (format!("agent/{i}/x"), format!("tool/{i}/x")),
        };
        let td = "spiffe://ai-agents.org";
        write!(
            text,
            "\nallow \"r{i}\" {{\n  from = [\"{td}/{from}\"]\n  to = [\"{td}/{to}\"]\n  actions = [\"/tasks.v1.Tasks/*\"]\n}}"
        )
        .unwrap();
    }
    Policy::parse(&text).unwrap()
}

impl Fixture {
    fn new(rules: usize) -> Self {
        let ca = authority("ai-agents.org");
        let bundle = bundle("ai-agents.org", vec![ca.authority().clone()]);
        let workloads =
            ["planner/primary/1", "coder/primary/1", "reviewer/primary/1"].map(|name| {
                let id = format!("spiffe://ai-agents.org/{name}");
                let key = PrivateKey::generate(KeyType::EcP256).unwrap();
                Workload::new(&ca, &id, key, (NOW - 60, 3_600))
            });
        let bundles: Arc<dyn Bundles> = Arc::new([bundle].into_iter().collect::<BundleSet>());
        let policy = policy(rules);
        let engine = Engine::new(Arc::clone(&bundles));
        let at_b = open(&bundles, &policy, &workloads);
        let mut fixture = Self {
            bundles,
            policy,
            workloads,
            engine,
            at_b,
            calls: 0,
        };
        fixture.renew();
        fixture
    }

    /// A new chain and an engine that has seen one call of it.
    fn renew(&mut self) {
        self.engine = Engine::new(Arc::clone(&self.bundles));
        self.at_b = open(&self.bundles, &self.policy, &self.workloads);
        self.calls = 0;
        let call = self.call();
        drop(self.decide(&call));
    }

    fn prepare(&self) -> OutgoingCall {
        let [_, b, c] = &self.workloads;
        let call = CallRequest {
            callee: &c.id,
            method: "POST",
            path: PATH,
            grant: Grant::Exactly(0),
        };
        outbound::prepare(
            &self.policy,
            &b.identity,
            CallOrigin::Context(&self.at_b),
            &call,
            at(),
        )
        .unwrap()
    }

    /// The next call of B, made outside what is timed.
    fn call(&mut self) -> Call {
        if self.calls == CALLS_PER_CHAIN {
            self.renew();
        }
        self.calls += 1;
        let call = self.prepare();
        Call {
            chain: call.chain_value(Carrier::Grpc),
            certs: call.certs_value(Carrier::Grpc).unwrap(),
        }
    }

    /// The next calls of B, all in one chain, made outside what is timed.
    fn batch(&mut self, calls: usize) -> Vec<Call> {
        if self.calls + calls > CALLS_PER_CHAIN {
            self.renew();
        }
        (0..calls).map(|_| self.call()).collect()
    }

    /// How long it takes to decide about all of these.
    fn decide_all(&self, calls: &[Call]) -> Duration {
        let mut permits = Vec::with_capacity(calls.len());
        timed(|| {
            for call in calls {
                permits.push(self.decide(call));
            }
        })
    }

    fn decide(&self, call: &Call) -> Permit {
        let [_, b, c] = &self.workloads;
        let fields = fields(Carrier::Grpc, &call.chain, Some(&call.certs));
        self.engine
            .decide(&self.policy, &request(b, c, fields), at())
            .unwrap()
    }
}

fn at() -> Now {
    Now {
        wall: UnixTime::from_secs(NOW),
        mono: Duration::from_secs(10),
    }
}

fn request<'a>(
    from: &'a Workload,
    to: &'a Workload,
    fields: FieldValues<'a>,
) -> InboundRequest<'a> {
    InboundRequest {
        peer: Some(from.peer()),
        presented: &to.id,
        method: "POST",
        path: PATH,
        carrier: Carrier::Grpc,
        fields,
    }
}

/// B's context below a first call of A.
fn open(bundles: &Arc<dyn Bundles>, policy: &Policy, [a, b, _]: &[Workload; 3]) -> Context {
    let call = CallRequest {
        callee: &b.id,
        method: "POST",
        path: PATH,
        grant: Grant::Exactly(u16::MAX),
    };
    let call = outbound::prepare(policy, &a.identity, CallOrigin::NewChain, &call, at()).unwrap();
    let value = call.chain_value(Carrier::Grpc);
    let fields = fields(Carrier::Grpc, &value, None);
    let permit = Engine::new(Arc::clone(bundles))
        .decide(policy, &request(a, b, fields), at())
        .unwrap();
    let context = permit.context().unwrap().clone();
    context.check_signature(at()).unwrap();
    context
}

/// The bare operations that everything is measured against.
struct Bare {
    key: EcdsaKeyPair,
    public: ParsedPublicKey,
    random: SystemRandom,
    message: Vec<u8>,
    signature: Vec<u8>,
}

impl Bare {
    fn new() -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let public =
            ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref()).unwrap();
        let message = vec![7; 300];
        let signature = key.sign(&random, &message).unwrap().as_ref().to_vec();
        Self {
            key,
            public,
            random,
            message,
            signature,
        }
    }

    fn sign(&self) {
        black_box(self.key.sign(&self.random, &self.message).unwrap());
    }

    fn verify(&self) {
        self.public
            .verify_sig(&self.message, &self.signature)
            .unwrap();
    }
}

fn links(criterion: &mut Criterion) {
    let bare = Bare::new();
    let mut fixture = Fixture::new(10);
    criterion.bench_function("bare P-256 sign", |b| b.iter(|| bare.sign()));
    criterion.bench_function("bare P-256 verify", |b| b.iter(|| bare.verify()));
    criterion.bench_function("make a link", |b| {
        b.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            for _ in 0..iterations {
                if fixture.at_b.remaining() == 0 {
                    fixture.renew();
                }
                spent += timed(|| drop(black_box(fixture.prepare())));
            }
            spent
        });
    });
}

fn decisions(criterion: &mut Criterion) {
    for rules in RULES {
        let mut fixture = Fixture::new(rules);
        criterion.bench_function(&format!("decide under {rules} rules"), |b| {
            b.iter_custom(|iterations| {
                let mut spent = Duration::ZERO;
                let mut left = usize::try_from(iterations).unwrap();
                while left > 0 {
                    let calls = fixture.batch(left.min(BATCH));
                    spent += fixture.decide_all(&calls);
                    left -= calls.len();
                }
                spent
            });
        });
    }
}

/// The median times of one operation and of the bare one beside it. Their batches take turns, so that what else runs on
/// the machine slows both.
fn beside(mut bare: impl FnMut() -> Duration, mut whole: impl FnMut() -> Duration) -> (f64, f64) {
    let pairs: Vec<_> = (0..BATCHES).map(|_| (bare(), whole())).collect();
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times.get(BATCHES / 2).copied().unwrap() / 20.0 * 1e6
    };
    let of = |pick: fn(&(Duration, Duration)) -> Duration| {
        median(pairs.iter().map(|pair| pick(pair).as_secs_f64()).collect())
    };
    (of(|pair| pair.0), of(|pair| pair.1))
}

fn report(name: &str, operation: &str, (bare, whole): (f64, f64)) {
    println!(
        "{name:28} {whole:8.2} us   bare {operation:6} {bare:8.2} us   ratio {:5.2}",
        whole / bare
    );
}

fn timed(run: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    run();
    begin.elapsed()
}

fn ratios(_: &mut Criterion) {
    let bare = Bare::new();
    let sign = || timed(|| (0..BATCH).for_each(|_| bare.sign()));
    let verify = || timed(|| (0..BATCH).for_each(|_| bare.verify()));
    println!("\nmedians over {BATCHES} batches of {BATCH}");
    let mut fixture = Fixture::new(10);
    let make = beside(sign, || {
        if usize::from(fixture.at_b.remaining()) < BATCH {
            fixture.renew();
        }
        timed(|| (0..BATCH).for_each(|_| drop(black_box(fixture.prepare()))))
    });
    report("make a link", "sign", make);
    let check = beside(verify, || {
        let permits: Vec<_> = fixture
            .batch(BATCH)
            .iter()
            .map(|call| fixture.decide(call))
            .collect();
        timed(|| {
            for permit in &permits {
                permit.context().unwrap().check_signature(at()).unwrap();
            }
        })
    });
    report("verify a link", "verify", check);
    for rules in RULES {
        let mut fixture = Fixture::new(rules);
        let decide = beside(verify, || {
            let calls = fixture.batch(BATCH);
            fixture.decide_all(&calls)
        });
        report(&format!("decide under {rules} rules"), "verify", decide);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = links, decisions, ratios
}
criterion_main!(benches);
