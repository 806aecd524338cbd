//! Possession of a certificate's key, shown by a signature over two nonces (wire contract, C.3).

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PSS_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rand::Rng as _;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use super::proof::{NoProof, NodeAttestor, Proof, read};
use crate::pem;

const TYPE: &str = "x509pop";
const NONCE: usize = 32;
/// Bytes of a P-384 scalar.
const P384: usize = 48;

/// The files of a certificate that an authority of the site gave to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct X509PopAttestor {
    /// The private key, in PEM.
    pub(crate) private_key: PathBuf,
    /// The certificate, in PEM; more certificates in the file are intermediates.
    pub(crate) certificate: PathBuf,
    /// Further intermediates, in PEM.
    pub(crate) intermediates: Option<PathBuf>,
}

impl NodeAttestor for X509PopAttestor {
    fn kind(&self) -> &'static str {
        TYPE
    }

    /// The files are read anew each time, since certificates are replaced while a node agent runs.
    fn prove(&self) -> Result<Box<dyn Proof>, NoProof> {
        let mut chain = certificates(&self.certificate)?;
        if let Some(path) = &self.intermediates {
            chain.extend(certificates(path)?);
        }
        Ok(Box::new(Possession {
            payload: Payload {
                certificates: chain,
            },
            key: SigningKey::read(&self.private_key)?,
        }))
    }
}

fn certificates(path: &Path) -> Result<Vec<String>, NoProof> {
    let fail = |reason: String| NoProof::File {
        path: path.to_owned(),
        reason,
    };
    let found = pem::read_certificates(&read(path)?).map_err(|e| fail(e.to_string()))?;
    if found.is_empty() {
        return Err(fail("there is no certificate in it".to_owned()));
    }
    Ok(found.iter().map(|der| STANDARD.encode(der)).collect())
}

struct Possession {
    payload: Payload,
    key: SigningKey,
}

impl Proof for Possession {
    fn payload(&self) -> Bytes {
        json(&self.payload)
    }

    fn answer(&self, challenge: &[u8]) -> Result<Bytes, NoProof> {
        let challenge: Challenge =
            serde_json::from_slice(challenge).map_err(|e| NoProof::Challenge(e.to_string()))?;
        self.key
            .answer(&challenge, &rand::rng().random())
            .map(|answer| json(&answer))
    }
}

/// Strings alone: there is nothing that could fail to be JSON.
fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[derive(Serialize)]
struct Payload {
    certificates: Vec<String>,
}

#[derive(Deserialize)]
struct Challenge {
    rsa_signature: Option<Nonce>,
    ecdsa_signature: Option<Nonce>,
}

#[derive(Deserialize)]
struct Nonce {
    nonce: String,
}

/// The alternative that is not used stands there as `null`, which Go peers expect or leave out.
#[derive(Debug, Serialize)]
struct Response {
    rsa_signature: Option<RsaResponse>,
    ecdsa_signature: Option<EcdsaResponse>,
}

#[derive(Debug, Serialize)]
struct RsaResponse {
    nonce: String,
    signature: String,
}

#[derive(Debug, Serialize)]
struct EcdsaResponse {
    nonce: String,
    r: String,
    s: String,
}

enum SigningKey {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Curve, Box<EcdsaKeyPair>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl SigningKey {
    fn read(path: &Path) -> Result<Self, NoProof> {
        let fail = |reason: &str| NoProof::File {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        let text = read(path)?;
        let der = PrivateKeyDer::from_pem_slice(&text)
            .map_err(|_| fail("there is no private key in PEM in it"))?;
        Self::parse(&der).ok_or_else(|| {
            fail("not a usable private key: RSA, and ECDSA on P-256, P-384 and P-521 are")
        })
    }

    fn parse(der: &PrivateKeyDer<'_>) -> Option<Self> {
        let rsa = match der {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()).ok(),
            PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).ok(),
            _ => None,
        };
        if let Some(rsa) = rsa {
            return Some(Self::Rsa(Box::new(rsa)));
        }
        let curves = [
            (Curve::P256, &ECDSA_P256_SHA256_FIXED_SIGNING),
            (Curve::P384, &ECDSA_P384_SHA384_FIXED_SIGNING),
            (Curve::P521, &ECDSA_P521_SHA256_FIXED_SIGNING),
        ];
        curves.into_iter().find_map(|(curve, algorithm)| {
            let pair = EcdsaKeyPair::from_private_key_der(algorithm, der.secret_der()).ok()?;
            Some(Self::Ecdsa(curve, Box::new(pair)))
        })
    }

    fn answer(&self, challenge: &Challenge, ours: &[u8; NONCE]) -> Result<Response, NoProof> {
        let (theirs, kind) = match self {
            Self::Rsa(_) => (&challenge.rsa_signature, "an RSA"),
            Self::Ecdsa(..) => (&challenge.ecdsa_signature, "an ECDSA"),
        };
        let theirs = theirs
            .as_ref()
            .ok_or_else(|| NoProof::Challenge(format!("it is not one for {kind} key")))?;
        let theirs = STANDARD
            .decode(&theirs.nonce)
            .ok()
            .filter(|nonce| nonce.len() == NONCE)
            .ok_or_else(|| {
                NoProof::Challenge(format!("its nonce is not {NONCE} bytes in base64"))
            })?;
        let nonce = STANDARD.encode(ours);
        let signature = self
            .sign(&[&theirs[..], &ours[..]].concat())
            .ok_or(NoProof::Sign)?;
        Ok(match self {
            Self::Rsa(_) => Response {
                rsa_signature: Some(RsaResponse {
                    nonce,
                    signature: STANDARD.encode(signature),
                }),
                ecdsa_signature: None,
            },
            Self::Ecdsa(..) => {
                let (r, s) = signature.split_at(signature.len() / 2);
                Response {
                    rsa_signature: None,
                    ecdsa_signature: Some(EcdsaResponse {
                        nonce,
                        r: unsigned(r),
                        s: unsigned(s),
                    }),
                }
            }
        })
    }

    /// Signs the SHA-256 of `nonces`. RSA-PSS with a salt as long as the digest: verifiers find its length out.
    fn sign(&self, nonces: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PSS_SHA256, &random, nonces, &mut signature)
                    .ok()?;
                Some(signature)
            }
            Self::Ecdsa(Curve::P384, key) => {
                // The library signs with SHA-384 only on this curve. ECDSA signs the number that the digest is, and zeros
                // before it don't change that.
                let digest = digest::digest(&digest::SHA256, nonces);
                let zeros = vec![0; P384 - digest.as_ref().len()];
                let padded = [&zeros[..], digest.as_ref()].concat();
                let digest = Digest::import_less_safe(&padded, &digest::SHA384).ok()?;
                Some(key.sign_digest(&digest).ok()?.as_ref().to_vec())
            }
            Self::Ecdsa(_, key) => Some(key.sign(&random, nonces).ok()?.as_ref().to_vec()),
        }
    }
}

/// A big-endian number without leading zeros, in base64.
fn unsigned(number: &[u8]) -> String {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    STANDARD.encode(number.get(zeros..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA256_ASN1, ECDSA_P521_SHA256_FIXED,
        EcdsaSigningAlgorithm, KeyPair as _, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey,
        VerificationAlgorithm,
    };
    use rustls_pki_types::PrivatePkcs8KeyDer;

    use super::*;

    fn challenge(member: &str) -> Vec<u8> {
        let other = if member == "rsa_signature" {
            "ecdsa_signature"
        } else {
            "rsa_signature"
        };
        let nonce = STANDARD.encode([7; NONCE]);
        serde_json::to_vec(&serde_json::json!({ member: { "nonce": nonce }, other: null })).unwrap()
    }

    fn answered(key: SigningKey, member: &str) -> serde_json::Value {
        let possession = Possession {
            payload: Payload {
                certificates: vec![],
            },
            key,
        };
        let answer = possession.answer(&challenge(member)).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    fn bytes(value: &serde_json::Value) -> Vec<u8> {
        STANDARD.decode(value.as_str().unwrap()).unwrap()
    }

    /// What was signed: the server's nonce and then this side's.
    fn message(part: &serde_json::Value) -> Vec<u8> {
        [vec![7; NONCE], bytes(&part["nonce"])].concat()
    }

    fn parse(pkcs8: &[u8]) -> SigningKey {
        SigningKey::parse(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8))).unwrap()
    }

    #[test]
    fn an_rsa_key_signs_with_pss_over_both_nonces() {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let answer = answered(parse(pkcs8.as_ref()), "rsa_signature");
        assert!(answer["ecdsa_signature"].is_null());
        let part = &answer["rsa_signature"];
        UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, pair.public_key().as_ref())
            .verify(&message(part), &bytes(&part["signature"]))
            .unwrap();
    }

    fn fixed(number: &[u8], len: usize) -> Vec<u8> {
        [vec![0; len - number.len()], number.to_vec()].concat()
    }

    fn ecdsa(
        signing: &'static EcdsaSigningAlgorithm,
        verifying: &'static dyn VerificationAlgorithm,
        encode: impl Fn(&[u8], &[u8]) -> Vec<u8>,
    ) {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(signing, &SystemRandom::new()).unwrap();
        let public = EcdsaKeyPair::from_pkcs8(signing, pkcs8.as_ref()).unwrap();
        let answer = answered(parse(pkcs8.as_ref()), "ecdsa_signature");
        assert!(answer["rsa_signature"].is_null());
        let part = &answer["ecdsa_signature"];
        let (r, s) = (bytes(&part["r"]), bytes(&part["s"]));
        assert!(r[0] != 0 && s[0] != 0, "no leading zeros");
        UnparsedPublicKey::new(verifying, public.public_key().as_ref())
            .verify(&message(part), &encode(&r, &s))
            .unwrap();
    }

    /// ECDSA-Sig-Value in DER, for numbers of fewer than 128 bytes together.
    fn der(r: &[u8], s: &[u8]) -> Vec<u8> {
        let integer = |n: &[u8]| {
            let positive = [&vec![0; usize::from(n[0] >> 7)][..], n].concat();
            [&[2, u8::try_from(positive.len()).unwrap()][..], &positive].concat()
        };
        let both = [integer(r), integer(s)].concat();
        [&[0x30, u8::try_from(both.len()).unwrap()][..], &both].concat()
    }

    #[test]
    fn ecdsa_keys_of_each_curve_sign_the_sha_256_of_both_nonces() {
        for _ in 0..20 {
            ecdsa(
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                &ECDSA_P256_SHA256_FIXED,
                |r, s| [fixed(r, 32), fixed(s, 32)].concat(),
            );
            ecdsa(
                &ECDSA_P384_SHA384_FIXED_SIGNING,
                &ECDSA_P384_SHA256_ASN1,
                der,
            );
            ecdsa(
                &ECDSA_P521_SHA256_FIXED_SIGNING,
                &ECDSA_P521_SHA256_FIXED,
                |r, s| [fixed(r, 66), fixed(s, 66)].concat(),
            );
        }
    }

    #[test]
    fn a_challenge_for_another_key_or_none_at_all_is_not_answered() {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .unwrap();
        let possession = Possession {
            payload: Payload {
                certificates: vec![],
            },
            key: parse(pkcs8.as_ref()),
        };
        let short = br#"{"ecdsa_signature":{"nonce":"AAAA"}}"#;
        for bad in [
            &b"no json"[..],
            b"{}",
            b"[]",
            short,
            &challenge("rsa_signature"),
        ] {
            assert!(
                matches!(possession.answer(bad), Err(NoProof::Challenge(_))),
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
    }

    #[test]
    fn files_that_can_not_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.pem");
        let attestor = X509PopAttestor {
            private_key: path.clone(),
            certificate: path.clone(),
            intermediates: None,
        };
        let error = attestor.prove().err().unwrap().to_string();
        assert!(error.contains("node.pem"), "{error}");
        std::fs::write(&path, "nothing").unwrap();
        let error = attestor.prove().err().unwrap().to_string();
        assert!(
            error.contains("node.pem") && error.contains("no certificate"),
            "{error}"
        );
    }
}
