//! The CBOR form of a chain: one encoder, and a reader that accepts only what the encoder writes.
//!
//! `docs/call-chains.md`, section 2. Besides the encoding, the reader checks everything that can be said of one link by
//! itself: types, ranges, the form of the signature. What links say about each other is the decision's business.

use aws_lc_rs::digest;
use countersign_identity::{KeyId, SpiffeId};

use super::cbor::{Reader, Writer};
use super::link::{ByteSpans, ChainStart};
use super::{
    Algorithm, Chain, ChainId, Claims, Link, MAX_CHAIN_LEN, MAX_LINKS, Malformed, PrefixHash,
};

/// The longest action, in bytes.
pub(crate) const MAX_ACTION_LEN: usize = 1_024;
/// The shortest action, in bytes.
pub(crate) const MIN_ACTION_LEN: usize = 3;
/// Times are below this, so that every language has them exactly.
pub(crate) const TIME_END: u64 = 1 << 53;
/// A chain lives at most this long, in seconds from its first link's `iat`.
pub(crate) const MAX_LIFETIME: u64 = 86_400;
/// The greatest hop limit.
pub(crate) const MAX_HOPS: u8 = 16;

/// Version and purpose, part of everything that is signed.
const CONTEXT: &[u8; 13] = b"agent-chain-1";
const EXTERNAL_AAD_LEN: usize = CONTEXT.len() + 32;

const HEADER_ALG: i64 = 1;
const HEADER_KID: i64 = 4;

const ISS: i64 = 1;
const AUD: i64 = 3;
const EXP: i64 = 4;
const IAT: i64 = 6;
const CTI: i64 = 7;
const MAX_HOPS_CLAIM: i64 = -70_001;
const BUDGET: i64 = -70_002;
const ACTION: i64 = -70_003;
const CHAIN: i64 = -70_006;

/// How many claims a link has that is not the first.
const CLAIMS: u64 = 7;
/// How many the first link has.
const FIRST_CLAIMS: u64 = CLAIMS + 2;

pub(super) fn decode(bytes: Vec<u8>) -> Result<Chain, Malformed> {
    if bytes.len() > MAX_CHAIN_LEN {
        return Err(Malformed("chain is longer than 6,000 bytes"));
    }
    let mut reader = Reader::new(&bytes);
    let count = usize::try_from(reader.array()?).unwrap_or(usize::MAX);
    if count == 0 || count > MAX_LINKS {
        return Err(Malformed("chain must have 1 to 16 links"));
    }
    let (first, start) = link(&mut reader, true)?;
    let start = start.ok_or(Malformed("first link has no originator"))?;
    let mut links = Vec::with_capacity(count);
    if first.claims.exp > first.claims.iat + MAX_LIFETIME {
        return Err(Malformed(
            "exp is more than 86,400 seconds after the first iat",
        ));
    }
    links.push(first);
    for _ in 1..count {
        links.push(link(&mut reader, false)?.0);
    }
    reader.end()?;
    Ok(Chain {
        bytes,
        originator: start.iss,
        id: start.chain,
        links,
    })
}

fn link(reader: &mut Reader<'_>, is_first: bool) -> Result<(Link, Option<ChainStart>), Malformed> {
    let begin = reader.position();
    if reader.array()? != 4 {
        return Err(Malformed("a link is an array of four"));
    }
    let (protected, protected_at) = reader.bytes_at()?;
    reader.map_of(0)?;
    let (payload, payload_at) = reader.bytes_at()?;
    let (signature, signature_at) = reader.bytes_at()?;
    let (algorithm, kid) = header(protected)?;
    let (claims, start) = claims(payload, is_first)?;
    if !algorithm.is_well_formed(signature) {
        return Err(Malformed(
            "signature is not r and a small s of the algorithm",
        ));
    }
    let spans = ByteSpans {
        link: begin..reader.position(),
        protected: protected_at,
        payload: payload_at,
        signature: signature_at,
    };
    Ok((
        Link {
            claims,
            kid,
            algorithm,
            spans,
        },
        start,
    ))
}

fn header(bytes: &[u8]) -> Result<(Algorithm, KeyId), Malformed> {
    let mut reader = Reader::new(bytes);
    reader.map_of(2)?;
    reader.key(HEADER_ALG)?;
    let algorithm = Algorithm::from_cose(reader.integer()?)
        .ok_or(Malformed("algorithm is not ES256 or ES384"))?;
    reader.key(HEADER_KID)?;
    let kid = KeyId::from_bytes(reader.bytes_of()?);
    reader.end()?;
    Ok((algorithm, kid))
}

fn claims(bytes: &[u8], is_first: bool) -> Result<(Claims, Option<ChainStart>), Malformed> {
    let mut reader = Reader::new(bytes);
    reader.map_of(if is_first { FIRST_CLAIMS } else { CLAIMS })?;
    let iss = if is_first {
        reader.key(ISS)?;
        Some(id(reader.text()?)?)
    } else {
        None
    };
    reader.key(AUD)?;
    let aud = id(reader.text()?)?;
    reader.key(EXP)?;
    let exp = time(&mut reader)?;
    reader.key(IAT)?;
    let iat = time(&mut reader)?;
    reader.key(CTI)?;
    let cti = reader.bytes_of()?;
    reader.key(MAX_HOPS_CLAIM)?;
    let max_hops = u8::try_from(reader.unsigned()?)
        .ok()
        .filter(|hops| (1..=MAX_HOPS).contains(hops))
        .ok_or(Malformed("max_hops is not 1 to 16"))?;
    reader.key(BUDGET)?;
    let budget =
        u16::try_from(reader.unsigned()?).map_err(|_| Malformed("budget is over 65,535"))?;
    reader.key(ACTION)?;
    let action = reader.text()?;
    if !is_action(action) {
        return Err(Malformed("action is not a method, one space and a path"));
    }
    let start = match iss {
        Some(iss) => {
            reader.key(CHAIN)?;
            Some(ChainStart {
                iss,
                chain: ChainId::from_bytes(reader.bytes_of()?),
            })
        }
        None => None,
    };
    reader.end()?;
    Ok((
        Claims {
            aud,
            exp,
            iat,
            cti,
            max_hops,
            budget,
            action: action.to_owned(),
        },
        start,
    ))
}

fn id(text: &str) -> Result<SpiffeId, Malformed> {
    SpiffeId::parse(text)
        .ok()
        .filter(|id| !id.path().is_empty())
        .ok_or(Malformed(
            "iss or aud is not a canonical SPIFFE ID with a path",
        ))
}

fn time(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    let time = reader.unsigned()?;
    if time < TIME_END {
        Ok(time)
    } else {
        Err(Malformed("exp or iat is not below 2^53"))
    }
}

/// Whether a text has the form of the action claim: visible ASCII with exactly one space, 3 to 1,024 bytes.
pub(crate) fn is_action(text: &str) -> bool {
    let spaces = text.bytes().filter(|b| *b == b' ').count();
    (MIN_ACTION_LEN..=MAX_ACTION_LEN).contains(&text.len())
        && spaces == 1
        && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
        && !text.starts_with(' ')
        && !text.ends_with(' ')
}

/// The content of the protected header.
pub(crate) fn encode_header(algorithm: Algorithm, kid: &KeyId) -> Vec<u8> {
    Writer::with_capacity(40)
        .map(2)
        .integer(HEADER_ALG)
        .integer(algorithm.cose())
        .integer(HEADER_KID)
        .bytes(kid.as_bytes())
        .finish()
}

/// The payload; `start` for the first link only.
pub(crate) fn encode_claims(claims: &Claims, start: Option<&ChainStart>) -> Vec<u8> {
    let mut writer = Writer::with_capacity(claims.aud.as_str().len() + claims.action.len() + 160);
    writer = match start {
        Some(start) => writer
            .map(FIRST_CLAIMS)
            .integer(ISS)
            .text(start.iss.as_str()),
        None => writer.map(CLAIMS),
    };
    writer = writer
        .integer(AUD)
        .text(claims.aud.as_str())
        .integer(EXP)
        .unsigned(claims.exp)
        .integer(IAT)
        .unsigned(claims.iat)
        .integer(CTI)
        .bytes(&claims.cti)
        .integer(MAX_HOPS_CLAIM)
        .unsigned(claims.max_hops.into())
        .integer(BUDGET)
        .unsigned(claims.budget.into())
        .integer(ACTION)
        .text(&claims.action);
    if let Some(start) = start {
        writer = writer.integer(CHAIN).bytes(start.chain.as_bytes());
    }
    writer.finish()
}

/// One link in its encoded form.
pub(crate) fn encode_link(protected: &[u8], payload: &[u8], signature: &[u8]) -> Vec<u8> {
    Writer::with_capacity(protected.len() + payload.len() + signature.len() + 16)
        .array(4)
        .bytes(protected)
        .map(0)
        .bytes(payload)
        .bytes(signature)
        .finish()
}

/// What a link's signature covers: the `Sig_structure` of RFC 9052, 4.4, with the hash over all links before.
pub(crate) fn to_be_signed(before: &PrefixHash, protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut aad = [0; EXTERNAL_AAD_LEN];
    let (context, hash) = aad.split_at_mut(CONTEXT.len());
    context.copy_from_slice(CONTEXT);
    hash.copy_from_slice(before);
    Writer::with_capacity(protected.len() + payload.len() + 80)
        .array(4)
        .text("Signature1")
        .bytes(protected)
        .bytes(&aad)
        .bytes(payload)
        .finish()
}

/// The chain with one more link at its end; `links` is how many it had.
pub(crate) fn append(chain: &[u8], links: usize, link: &[u8]) -> Vec<u8> {
    // Up to 23 links the head is one byte, and there are at most 16.
    let before = chain.get(1..).unwrap_or_default();
    let mut bytes = Writer::with_capacity(1 + before.len() + link.len())
        .array(links + 1)
        .finish();
    bytes.extend_from_slice(before);
    bytes.extend_from_slice(link);
    bytes
}

/// The hash over one link more: SHA-256(before ‖ link as encoded).
pub(crate) fn prefix_after(before: &PrefixHash, link: &[u8]) -> PrefixHash {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(before);
    context.update(link);
    // A SHA-256 always has 32 bytes.
    context.finish().as_ref().try_into().unwrap_or([0; 32])
}

#[cfg(test)]
mod tests;
