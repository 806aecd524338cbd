//! The certificates that travel with a chain: leaves and intermediates of the signers of its earlier links.
//!
//! `docs/call-chains.md`, section 4. CBOR `[leaves, intermediates]`, arrays of DER without repeats. Nothing is opened
//! here; the verification looks only at those that a link of the chain asks for.

use std::ops::Range;

use rustls_pki_types::CertificateDer;

use super::Malformed;
use super::cbor::{Reader, Writer};

/// The most leaves that may come along.
pub const MAX_LEAVES: usize = 16;
/// The most intermediates that may come along.
pub const MAX_INTERMEDIATES: usize = 8;
/// The most bytes that all of it may have, encoded.
pub const MAX_CERTS_LEN: usize = 24 * 1024;

/// The certificates of the earlier signers of a chain, in their encoded form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertSet {
    bytes: Vec<u8>,
    leaves: Vec<Range<usize>>,
    intermediates: Vec<Range<usize>>,
}

impl CertSet {
    /// Reads a set, accepting only what [`CertSet::encode`] would write.
    ///
    /// # Errors
    /// The first rule of section 4 that the bytes break.
    pub fn decode(bytes: Vec<u8>) -> Result<Self, Malformed> {
        if bytes.len() > MAX_CERTS_LEN {
            return Err(Malformed("certificates are longer than 24 KiB"));
        }
        let mut reader = Reader::new(&bytes);
        if reader.array()? != 2 {
            return Err(Malformed("certificates are an array of two"));
        }
        let leaves = list(&mut reader, MAX_LEAVES)?;
        let intermediates = list(&mut reader, MAX_INTERMEDIATES)?;
        reader.end()?;
        if leaves.is_empty() {
            return Err(Malformed("certificates without a leaf"));
        }
        let set = Self {
            bytes,
            leaves,
            intermediates,
        };
        if set.has_repeats() {
            return Err(Malformed("a certificate stands there twice"));
        }
        Ok(set)
    }

    /// Writes a set, leaving out repeats. `None` if there is no leaf or a bound is exceeded.
    #[must_use]
    pub fn encode<'a>(
        leaves: impl IntoIterator<Item = &'a [u8]>,
        intermediates: impl IntoIterator<Item = &'a [u8]>,
    ) -> Option<Vec<u8>> {
        let mut all: Vec<&[u8]> = Vec::new();
        push_new(&mut all, leaves);
        let leaf_count = all.len();
        push_new(&mut all, intermediates);
        let (leaves, intermediates) = all.split_at_checked(leaf_count)?;
        if leaves.is_empty() || leaves.len() > MAX_LEAVES || intermediates.len() > MAX_INTERMEDIATES
        {
            return None;
        }
        let size: usize = all.iter().map(|der| der.len() + 4).sum();
        let mut writer = Writer::with_capacity(size + 4).array(2).array(leaves.len());
        writer = leaves.iter().fold(writer, |writer, der| writer.bytes(der));
        writer = writer.array(intermediates.len());
        let bytes = intermediates
            .iter()
            .fold(writer, |writer, der| writer.bytes(der))
            .finish();
        (bytes.len() <= MAX_CERTS_LEN).then_some(bytes)
    }

    /// The encoded form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The leaves, in the order in which they came.
    pub fn leaves(&self) -> impl Iterator<Item = CertificateDer<'_>> {
        self.certificates(&self.leaves)
    }

    /// The intermediates, in the order in which they came.
    pub fn intermediates(&self) -> impl Iterator<Item = CertificateDer<'_>> {
        self.certificates(&self.intermediates)
    }

    fn certificates<'a>(
        &'a self,
        ranges: &'a [Range<usize>],
    ) -> impl Iterator<Item = CertificateDer<'a>> {
        ranges
            .iter()
            .filter_map(|range| self.bytes.get(range.clone()))
            .map(CertificateDer::from)
    }

    fn has_repeats(&self) -> bool {
        let all: Vec<_> = self.leaves().chain(self.intermediates()).collect();
        all.iter()
            .enumerate()
            .any(|(i, der)| all.iter().skip(i + 1).any(|other| other == der))
    }
}

fn push_new<'a>(all: &mut Vec<&'a [u8]>, more: impl IntoIterator<Item = &'a [u8]>) {
    for der in more {
        if !all.contains(&der) {
            all.push(der);
        }
    }
}

fn list(reader: &mut Reader<'_>, limit: usize) -> Result<Vec<Range<usize>>, Malformed> {
    let count = usize::try_from(reader.array()?).unwrap_or(usize::MAX);
    if count > limit {
        return Err(Malformed("more than 16 leaves or 8 intermediates"));
    }
    (0..count)
        .map(|_| {
            let (der, range) = reader.bytes_at()?;
            if der.is_empty() {
                Err(Malformed("an empty certificate"))
            } else {
                Ok(range)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(leaves: &[&[u8]], intermediates: &[&[u8]]) -> Option<Vec<u8>> {
        CertSet::encode(leaves.iter().copied(), intermediates.iter().copied())
    }

    #[test]
    fn what_is_written_is_read_again_without_repeats() {
        let bytes = encode(&[b"a", b"b", b"a"], &[b"c", b"b"]).unwrap();
        let set = CertSet::decode(bytes.clone()).unwrap();
        assert_eq!(
            set.leaves().map(|c| c.to_vec()).collect::<Vec<_>>(),
            [b"a", b"b"]
        );
        assert_eq!(
            set.intermediates().map(|c| c.to_vec()).collect::<Vec<_>>(),
            [b"c"]
        );
        assert_eq!(set.as_bytes(), bytes);
    }

    #[test]
    fn bounds_are_kept_by_writer_and_reader() {
        let many: Vec<Vec<u8>> = (0..17_u8).map(|i| vec![i]).collect();
        let refs: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        assert!(encode(&refs[..16], &[]).is_some());
        assert!(encode(&refs, &[]).is_none());
        assert!(encode(&refs[..1], &refs[1..9]).is_some());
        assert!(encode(&refs[..1], &refs[1..10]).is_none());
        assert!(encode(&[], &refs[..1]).is_none());
        assert!(encode(&[&vec![1; MAX_CERTS_LEN]], &[]).is_none());
    }

    #[test]
    fn every_other_form_is_malformed() {
        for (bad, why) in [
            (&[][..], "nothing"),
            (&[0x82, 0x80, 0x80], "no leaf"),
            (&[0x82, 0x81, 0x40, 0x80], "an empty certificate"),
            (&[0x82, 0x82, 0x41, 1, 0x41, 1, 0x80], "a repeat"),
            (
                &[0x82, 0x81, 0x41, 1, 0x81, 0x41, 1],
                "a repeat across the lists",
            ),
            (&[0x82, 0x81, 0x58, 1, 1, 0x80], "a long length"),
            (&[0x82, 0x9f, 0x41, 1, 0xff, 0x80], "an indefinite length"),
            (&[0x82, 0x81, 0x41, 1, 0x80, 0], "a byte after the end"),
            (&[0x81, 0x81, 0x41, 1], "one list"),
            (&[0x83, 0x81, 0x41, 1, 0x80, 0x80], "three lists"),
            (&[0x82, 0x81, 0x61, 0x61, 0x80], "text"),
        ] {
            assert!(CertSet::decode(bad.to_vec()).is_err(), "{why}");
        }
        assert!(CertSet::decode(vec![0x82, 0x81, 0x41, 1, 0x80]).is_ok());
        assert!(CertSet::decode(vec![0; MAX_CERTS_LEN + 1]).is_err());
    }
}
