//! Messages of any type from bytes, as a fuzzer or a property test makes them up: nearly right, and wrong in some places.
//!
//! Shared by the fuzz targets `requests` and `workload_requests` and by the server's own test of the same name.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

/// How deep messages may stand in each other.
const MAX_DEPTH: usize = 6;
/// The most items of a list.
const MAX_ITEMS: u8 = 4;

/// What texts are made of: what handlers look for, and what they should refuse.
const TEXTS: [&str; 40] = [
    "",
    "example.org",
    "spiffe://example.org",
    "spiffe://example.org/a",
    "spiffe://other.org/a",
    "other.org",
    "EXAMPLE.org",
    "/a",
    "/a/b",
    "/",
    "//",
    "/a/../b",
    "/spire/server",
    "/spire/agent/x509pop/a",
    "a",
    "unix",
    "uid:1",
    "a:b",
    "*.example.org",
    "web.example.org",
    "-",
    "xn--",
    "entry",
    "join_token",
    "x509pop",
    "https://example.org/bundle",
    "https://user:secret@[::1]:99999/?#",
    "0",
    "-1",
    "18446744073709551616",
    "2026-01-01 00:00:00 +0000 +00",
    "*",
    "default",
    "ROOTCA",
    "ALL",
    "disable_spiffe_cert_validation",
    "spiffe://EXAMPLE.org/a",
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    "pid:1",
    "\u{0}\u{7f}\u{1b}[2J\u{202e}ü",
];

/// Bytes that are used up; after the last there are only zeroes.
#[derive(Debug)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl Bytes<'_> {
    /// The next byte.
    pub(super) fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn number(&mut self) -> i64 {
        match self.next() % 8 {
            0 => 0,
            1 => 1,
            2 => -1,
            3 => i64::from(i32::MAX),
            4 => i64::MAX,
            5 => i64::MIN,
            6 => 1_800_000_000,
            _ => i64::from(self.next()),
        }
    }

    fn text(&mut self) -> String {
        let choice = usize::from(self.next());
        if let Some(text) = TEXTS.get(choice % 64) {
            return (*text).to_owned();
        }
        match choice % 4 {
            0 => "a".repeat(usize::from(self.next()) * 16),
            1 => format!("/{}", self.next()),
            2 => format!("{}.org", self.next()),
            _ => self.next().to_string(),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let count = usize::from(self.next() % 64);
        (0..count).map(|_| self.next()).collect()
    }
}

/// A message of this type.
pub(super) fn message(
    of: &MessageDescriptor,
    bytes: &mut Bytes<'_>,
    depth: usize,
) -> DynamicMessage {
    let mut message = DynamicMessage::new(of.clone());
    for field in of.fields() {
        if field.is_map() || bytes.next().is_multiple_of(4) {
            continue;
        }
        let value = if field.is_list() {
            let count = bytes.next() % MAX_ITEMS;
            Value::List((0..count).map(|_| value(&field, bytes, depth)).collect())
        } else {
            value(&field, bytes, depth)
        };
        message.set_field(&field, value);
    }
    message
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "any number will do"
)]
fn value(field: &FieldDescriptor, bytes: &mut Bytes<'_>, depth: usize) -> Value {
    match field.kind() {
        Kind::Double => Value::F64(bytes.number() as f64),
        Kind::Float => Value::F32(bytes.number() as f32),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(bytes.number() as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(bytes.number()),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(bytes.number() as u32),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(bytes.number() as u64),
        Kind::Bool => Value::Bool(bytes.next().is_multiple_of(2)),
        Kind::String => Value::String(bytes.text()),
        Kind::Bytes => Value::Bytes(bytes.bytes().into()),
        Kind::Enum(_) => Value::EnumNumber(bytes.number() as i32),
        Kind::Message(of) if depth < MAX_DEPTH => {
            Value::Message(message(&of, bytes, depth.saturating_add(1)))
        }
        Kind::Message(of) => Value::Message(DynamicMessage::new(of)),
    }
}
