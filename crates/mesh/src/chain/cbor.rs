//! Deterministic CBOR (RFC 8949, 4.2.1), as far as chains need it: a reader that refuses every other form, and a writer.

use std::ops::Range;

use minicbor::{Decoder, Encoder};

use super::Malformed;

type Read<T> = Result<T, Malformed>;

/// Reads one item after the other, each in its only form.
pub(super) struct Reader<'b> {
    decoder: Decoder<'b>,
}

/// How many bytes the shortest head for this argument has.
const fn head_len(argument: u64) -> usize {
    match argument {
        0..=23 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

impl<'b> Reader<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self {
            decoder: Decoder::new(bytes),
        }
    }

    pub(super) fn position(&self) -> usize {
        self.decoder.position()
    }

    /// An array of definite length; how many items follow.
    pub(super) fn array(&mut self) -> Read<u64> {
        let at = self.position();
        let len = self
            .decoder
            .array()
            .map_err(|_| Malformed("array expected"))?;
        self.definite(at, len)
    }

    /// A map of exactly this many pairs.
    pub(super) fn map_of(&mut self, pairs: u64) -> Read<()> {
        let at = self.position();
        let len = self.decoder.map().map_err(|_| Malformed("map expected"))?;
        if self.definite(at, len)? == pairs {
            Ok(())
        } else {
            Err(Malformed(
                "a claim or header is missing, unknown or too many",
            ))
        }
    }

    fn definite(&self, at: usize, len: Option<u64>) -> Read<u64> {
        let len = len.ok_or(Malformed("indefinite length"))?;
        self.shortest(at, len, 0)?;
        Ok(len)
    }

    fn shortest(&self, at: usize, argument: u64, content: usize) -> Read<()> {
        if self.position() - at == head_len(argument) + content {
            Ok(())
        } else {
            Err(Malformed("integer or length is not in its shortest form"))
        }
    }

    pub(super) fn unsigned(&mut self) -> Read<u64> {
        let at = self.position();
        let value = self
            .decoder
            .u64()
            .map_err(|_| Malformed("unsigned integer expected"))?;
        self.shortest(at, value, 0)?;
        Ok(value)
    }

    /// An integer of either sign.
    pub(super) fn integer(&mut self) -> Read<i64> {
        let at = self.position();
        let value = self
            .decoder
            .i64()
            .map_err(|_| Malformed("integer expected"))?;
        // A negative n is written as -1 - n, which is n with all bits turned.
        let argument = if value < 0 { !value } else { value };
        self.shortest(at, argument.unsigned_abs(), 0)?;
        Ok(value)
    }

    /// The key that has to come next in a map.
    pub(super) fn key(&mut self, expected: i64) -> Read<()> {
        if self.integer()? == expected {
            Ok(())
        } else {
            Err(Malformed(
                "a claim or header is missing, unknown or out of order",
            ))
        }
    }

    pub(super) fn bytes(&mut self) -> Read<&'b [u8]> {
        let at = self.position();
        let bytes = self
            .decoder
            .bytes()
            .map_err(|_| Malformed("byte string expected"))?;
        self.shortest(
            at,
            u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            bytes.len(),
        )?;
        Ok(bytes)
    }

    /// A byte string and where its content stands.
    pub(super) fn bytes_at(&mut self) -> Read<(&'b [u8], Range<usize>)> {
        let bytes = self.bytes()?;
        let end = self.position();
        Ok((bytes, end - bytes.len()..end))
    }

    pub(super) fn bytes_of<const N: usize>(&mut self) -> Read<[u8; N]> {
        self.bytes()?
            .try_into()
            .map_err(|_| Malformed("byte string of another length expected"))
    }

    pub(super) fn text(&mut self) -> Read<&'b str> {
        let at = self.position();
        let text = self
            .decoder
            .str()
            .map_err(|_| Malformed("text string expected"))?;
        self.shortest(
            at,
            u64::try_from(text.len()).unwrap_or(u64::MAX),
            text.len(),
        )?;
        Ok(text)
    }

    /// Nothing may follow.
    pub(super) fn end(&self) -> Read<()> {
        if self.position() == self.decoder.input().len() {
            Ok(())
        } else {
            Err(Malformed("bytes after the end"))
        }
    }
}

/// Writes one item after the other into memory, which cannot fail.
pub(super) struct Writer {
    encoder: Encoder<Vec<u8>>,
}

impl Writer {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            encoder: Encoder::new(Vec::with_capacity(capacity)),
        }
    }

    pub(super) fn array(mut self, items: usize) -> Self {
        let _ = self.encoder.array(u64::try_from(items).unwrap_or(u64::MAX));
        self
    }

    pub(super) fn map(mut self, pairs: u64) -> Self {
        let _ = self.encoder.map(pairs);
        self
    }

    pub(super) fn integer(mut self, value: i64) -> Self {
        let _ = self.encoder.i64(value);
        self
    }

    pub(super) fn unsigned(mut self, value: u64) -> Self {
        let _ = self.encoder.u64(value);
        self
    }

    pub(super) fn bytes(mut self, value: &[u8]) -> Self {
        let _ = self.encoder.bytes(value);
        self
    }

    pub(super) fn text(mut self, value: &str) -> Self {
        let _ = self.encoder.str(value);
        self
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.encoder.into_writer()
    }
}
