//! Chains made by hand: a second implementation of the format, which can also make what the library never would.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_identity::{KeyType, PrivateKey, SigningKey as _, SpiffeId, X509Svid};

use crate::fixture::NOW;

/// The action of most tests.
pub(crate) const TASKS: &str = "POST /tasks";

const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// What one link says. `iss` and `chain` are encoded where they are set, wherever that is.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    pub(crate) iss: Option<String>,
    pub(crate) aud: String,
    pub(crate) exp: u64,
    pub(crate) iat: u64,
    pub(crate) cti: [u8; 16],
    pub(crate) max_hops: u64,
    pub(crate) budget: u64,
    pub(crate) action: String,
    pub(crate) chain: Option<[u8; 16]>,
}

/// How a link is signed and encoded, where it is not as it should be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Style {
    pub(crate) alg: Option<i64>,
    pub(crate) signature: Option<Vec<u8>>,
    pub(crate) high_s: bool,
    /// Replaces the encoded payload before it is signed.
    pub(crate) payload: Option<fn(Vec<u8>) -> Vec<u8>>,
    /// Replaces the encoded protected header before it is signed.
    pub(crate) header: Option<fn(Vec<u8>) -> Vec<u8>>,
}

/// A chain under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forge {
    pub(crate) links: Vec<Vec<u8>>,
    prefix: [u8; 32],
    last: Option<Claims>,
    signers: Vec<Vec<Vec<u8>>>,
}

impl Forge {
    /// A first link, as an honest originator makes it: the whole default budget but this call.
    pub(crate) fn start(originator: &X509Svid, callee: &SpiffeId) -> Self {
        Self::start_with(originator, callee, |_| {})
    }

    pub(crate) fn start_with(
        originator: &X509Svid,
        callee: &SpiffeId,
        change: impl FnOnce(&mut Claims),
    ) -> Self {
        let mut claims = Claims {
            iss: Some(originator.id().to_string()),
            aud: callee.to_string(),
            exp: NOW + 300,
            iat: NOW,
            cti: random(),
            max_hops: 5,
            budget: 100,
            action: TASKS.to_owned(),
            chain: Some(random()),
        };
        change(&mut claims);
        let mut forge = Self::default();
        forge.add(originator, claims, &Style::default());
        forge
    }

    /// One more link by `signer`, with half of what is left.
    pub(crate) fn then(self, signer: &X509Svid, callee: &SpiffeId) -> Self {
        self.then_with(signer, callee, |_| {})
    }

    pub(crate) fn then_with(
        mut self,
        signer: &X509Svid,
        callee: &SpiffeId,
        change: impl FnOnce(&mut Claims),
    ) -> Self {
        let mut claims = self.last.clone().expect("a first link");
        claims.iss = None;
        claims.chain = None;
        claims.aud = callee.to_string();
        claims.cti = random();
        claims.budget /= 2;
        change(&mut claims);
        self.add(signer, claims, &Style::default());
        self
    }

    /// A link with this content and form.
    pub(crate) fn add(&mut self, signer: &X509Svid, claims: Claims, style: &Style) {
        self.add_signed_by(signer.key(), claims, style);
        self.signers
            .push(signer.chain().iter().map(|der| der.to_vec()).collect());
    }

    /// As [`Forge::add`], without a certificate that goes along.
    pub(crate) fn add_signed_by(&mut self, key: &PrivateKey, claims: Claims, style: &Style) {
        let mut header = header(key, style.alg);
        if let Some(change) = style.header {
            header = change(header);
        }
        let mut payload = payload(&claims);
        if let Some(change) = style.payload {
            payload = change(payload);
        }
        let mut aad = b"agent-chain-1".to_vec();
        aad.extend_from_slice(&self.prefix);
        let mut to_sign = head(4, 4);
        to_sign.extend(text("Signature1"));
        to_sign.extend(bytes(&header));
        to_sign.extend(bytes(&aad));
        to_sign.extend(bytes(&payload));
        let signature = style
            .signature
            .clone()
            .unwrap_or_else(|| sign(key, &to_sign, style.high_s));

        let mut link = head(4, 4);
        link.extend(bytes(&header));
        link.push(0xa0);
        link.extend(bytes(&payload));
        link.extend(bytes(&signature));
        self.push(link);
        self.last = Some(claims);
    }

    /// Appends a link as it stands.
    pub(crate) fn push(&mut self, link: Vec<u8>) {
        let mut joined = self.prefix.to_vec();
        joined.extend_from_slice(&link);
        self.prefix = digest::digest(&digest::SHA256, &joined)
            .as_ref()
            .try_into()
            .unwrap();
        self.links.push(link);
    }

    pub(crate) fn last(&self) -> &Claims {
        self.last.as_ref().expect("a link")
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut chain = head(4, self.links.len() as u64);
        self.links
            .iter()
            .for_each(|link| chain.extend_from_slice(link));
        chain
    }

    /// The value of `agent-chain`.
    pub(crate) fn http(&self) -> String {
        byte_sequence(&self.encode())
    }

    /// The value of `agent-chain-certs` with the certificates of all signers but the last; none for one signer.
    pub(crate) fn certs(&self) -> Option<String> {
        let earlier = self.signers.len().saturating_sub(1);
        certs_of(self.signers.iter().take(earlier))
    }

    /// The same with the last signer's too.
    pub(crate) fn all_certs(&self) -> Option<String> {
        certs_of(self.signers.iter())
    }
}

fn certs_of<'a>(signers: impl Iterator<Item = &'a Vec<Vec<u8>>>) -> Option<String> {
    let (mut leaves, mut intermediates) = (Vec::<&Vec<u8>>::new(), Vec::new());
    for chain in signers {
        let (leaf, above) = chain.split_first().unwrap();
        for (list, der) in std::iter::once((0, leaf)).chain(above.iter().map(|der| (1, der))) {
            let list = if list == 0 {
                &mut leaves
            } else {
                &mut intermediates
            };
            if !list.contains(&der) {
                list.push(der);
            }
        }
    }
    if leaves.is_empty() {
        return None;
    }
    let mut out = head(4, 2);
    for list in [leaves, intermediates] {
        out.extend(head(4, list.len() as u64));
        list.into_iter().for_each(|der| out.extend(bytes(der)));
    }
    Some(byte_sequence(&out))
}

pub(crate) fn byte_sequence(bytes: &[u8]) -> String {
    format!(":{}:", STANDARD.encode(bytes))
}

pub(crate) fn random() -> [u8; 16] {
    let mut out = [0; 16];
    aws_lc_rs::rand::fill(&mut out).unwrap();
    out
}

/// The protected header: alg and kid.
pub(crate) fn header(key: &PrivateKey, alg: Option<i64>) -> Vec<u8> {
    let alg = alg.unwrap_or(match key.key_type() {
        KeyType::EcP384 => -35,
        _ => -7,
    });
    let mut out = head(5, 2);
    out.extend(int(1));
    out.extend(int(alg));
    out.extend(int(4));
    out.extend(bytes(key.kid().as_bytes()));
    out
}

/// The claims, keys in bytewise order of their encoding.
pub(crate) fn payload(claims: &Claims) -> Vec<u8> {
    let mut pairs: Vec<(i64, Vec<u8>)> = vec![
        (3, text(&claims.aud)),
        (4, head(0, claims.exp)),
        (6, head(0, claims.iat)),
        (7, bytes(&claims.cti)),
        (-70_001, head(0, claims.max_hops)),
        (-70_002, head(0, claims.budget)),
        (-70_003, text(&claims.action)),
    ];
    if let Some(iss) = &claims.iss {
        pairs.insert(0, (1, text(iss)));
    }
    if let Some(chain) = &claims.chain {
        pairs.push((-70_006, bytes(chain)));
    }
    let mut out = head(5, pairs.len() as u64);
    for (key, value) in pairs {
        out.extend(int(key));
        out.extend(value);
    }
    out
}

pub(crate) fn head(major: u8, n: u64) -> Vec<u8> {
    let major = major << 5;
    match n {
        0..=23 => vec![major | n as u8],
        24..=0xff => vec![major | 24, n as u8],
        0x100..=0xffff => [vec![major | 25], (n as u16).to_be_bytes().to_vec()].concat(),
        0x1_0000..=0xffff_ffff => [vec![major | 26], (n as u32).to_be_bytes().to_vec()].concat(),
        _ => [vec![major | 27], n.to_be_bytes().to_vec()].concat(),
    }
}

pub(crate) fn int(n: i64) -> Vec<u8> {
    if n < 0 {
        head(1, (-1 - n) as u64)
    } else {
        head(0, n as u64)
    }
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [head(3, text.len() as u64), text.as_bytes().to_vec()].concat()
}

pub(crate) fn bytes(bytes: &[u8]) -> Vec<u8> {
    [head(2, bytes.len() as u64), bytes.to_vec()].concat()
}

/// r and the small s (or the large one), from the key's DER signature. P-256 only.
fn sign(key: &PrivateKey, message: &[u8], high_s: bool) -> Vec<u8> {
    let der = key.sign(message).unwrap();
    let (r, rest) = integer(&der[2..]);
    let (s, _) = integer(rest);
    let is_high = s > half_order();
    let s = if is_high == high_s {
        s
    } else {
        subtract(&P256_ORDER, &s)
    };
    [r, s].concat()
}

fn integer(der: &[u8]) -> ([u8; 32], &[u8]) {
    assert_eq!(der[0], 2);
    let len = usize::from(der[1]);
    let digits = &der[2..2 + len];
    let digits = digits.strip_prefix(&[0]).unwrap_or(digits);
    let mut out = [0; 32];
    out[32 - digits.len()..].copy_from_slice(digits);
    (out, &der[2 + len..])
}

fn half_order() -> [u8; 32] {
    let mut out = [0; 32];
    let mut carry = 0;
    for (half, digit) in out.iter_mut().zip(P256_ORDER) {
        *half = (digit >> 1) | (carry << 7);
        carry = digit & 1;
    }
    out
}

fn subtract(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    let mut out = [0; 32];
    let mut borrow = 0;
    for i in (0..32).rev() {
        let value = i16::from(a[i]) - i16::from(b[i]) - borrow;
        borrow = i16::from(value < 0);
        out[i] = (value + 256 * borrow) as u8;
    }
    out
}
