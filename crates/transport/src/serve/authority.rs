//! Accepts requests on Unix sockets with any `:authority`.
//!
//! gRPC's C core sends the percent-encoded path of the socket there, other clients send it bare. h2 parses the field
//! before any code of ours sees the request, and refuses what is not a host; yet on a Unix socket the authority has no
//! meaning. So the octets that h2 would refuse are replaced as they are read (decision 0002).
//!
//! A replacement has as many octets as the original, and as many bits in HPACK's Huffman code: no length on the wire
//! changes, and no entry of HPACK's dynamic table changes its size, so the rest of the stream need not be parsed. Field
//! values are not decoded, only skipped. Input that does not parse is passed on unchanged: h2 refuses it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// IO that replaces the `:authority` of the HTTP/2 requests read from it by one that h2 accepts.
#[derive(Debug)]
pub(super) struct AnyAuthority<S> {
    inner: S,
    requests: Requests,
}

impl<S> AnyAuthority<S> {
    pub(super) const fn new(inner: S) -> Self {
        Self {
            inner,
            requests: Requests {
                at: At::Preface(0),
                field: Field::Start,
            },
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AnyAuthority<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if let Some((_, read)) = buf.filled_mut().split_at_mut_checked(before) {
            self.requests.read(read);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// Stream dependency and weight.
const PRIORITY_LENGTH: usize = 5;

/// The state of the parser of one connection's input.
#[derive(Debug)]
struct Requests {
    at: At,
    field: Field,
}

/// The position in the connection (RFC 9113, 3.4, 4.1 and 6.2).
#[derive(Debug)]
enum At {
    /// In the preface, after this many octets.
    Preface(usize),
    /// In a frame's header, after this many octets.
    Head([u8; FRAME_HEAD], usize),
    /// Before the length of the padding.
    PadLength { rest: usize, priority: usize },
    /// In the priority.
    Priority {
        left: usize,
        block: usize,
        padding: usize,
    },
    /// In the block of header fields.
    Block { left: usize, padding: usize },
    /// In octets to skip.
    Skip(usize),
    /// Not HTTP/2, or malformed: pass everything on unchanged.
    Foreign,
}

impl At {
    /// The position after this frame header.
    fn payload(head: [u8; FRAME_HEAD]) -> Self {
        let [a, b, c, kind, flags, ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let Ok(length) = usize::try_from(length) else {
            return Self::Foreign;
        };
        let priority = if flags & PRIORITY == 0 {
            0
        } else {
            PRIORITY_LENGTH
        };
        match kind {
            HEADERS if flags & PADDED != 0 => length
                .checked_sub(1)
                .map_or(Self::Skip(0), |rest| Self::PadLength { rest, priority }),
            HEADERS => Self::after_pad_length(length, priority, 0),
            CONTINUATION => Self::Block {
                left: length,
                padding: 0,
            },
            _ => Self::Skip(length),
        }
    }

    fn after_pad_length(rest: usize, priority: usize, padding: usize) -> Self {
        rest.checked_sub(priority + padding)
            .map_or(Self::Skip(rest), |block| Self::Priority {
                left: priority,
                block,
                padding,
            })
    }

    /// Leaves what is over.
    fn settle(&mut self) {
        loop {
            *self = match *self {
                Self::Priority {
                    left: 0,
                    block,
                    padding,
                } => Self::Block {
                    left: block,
                    padding,
                },
                Self::Block { left: 0, padding } => Self::Skip(padding),
                Self::Skip(0) => Self::Head([0; FRAME_HEAD], 0),
                _ => return,
            };
        }
    }
}

impl Requests {
    fn read(&mut self, octets: &mut [u8]) {
        let mut octets = octets.iter_mut();
        while !matches!(self.at, At::Foreign) {
            // Most of the traffic is bodies: skip them in one step.
            if let At::Skip(left) = &mut self.at {
                let now = octets.len().min(*left);
                *left -= now;
                if let Some(last) = now.checked_sub(1) {
                    octets.nth(last);
                }
                self.at.settle();
            }
            let Some(octet) = octets.next() else {
                return;
            };
            *octet = self.octet(*octet);
        }
    }

    fn octet(&mut self, octet: u8) -> u8 {
        let mut taken = octet;
        match &mut self.at {
            At::Foreign | At::Skip(_) => {}
            At::Preface(seen) => {
                let expected = PREFACE.get(*seen) == Some(&octet);
                *seen += 1;
                if !expected {
                    self.at = At::Foreign;
                } else if *seen == PREFACE.len() {
                    self.at = At::Skip(0);
                }
            }
            At::Head(head, seen) => {
                if let Some(place) = head.get_mut(*seen) {
                    *place = octet;
                }
                *seen += 1;
                if *seen == FRAME_HEAD {
                    if head[3] == HEADERS {
                        self.field = Field::Start;
                    }
                    self.at = At::payload(*head);
                }
            }
            At::PadLength { rest, priority } => {
                self.at = At::after_pad_length(*rest, *priority, octet.into());
            }
            At::Priority { left, .. } => *left -= 1,
            At::Block { left, .. } => {
                *left -= 1;
                taken = self.field.octet(octet);
                if matches!(self.field, Field::Lost) {
                    self.at = At::Foreign;
                }
            }
        }
        self.at.settle();
        taken
    }
}

/// `:authority` has this index in HPACK's static table (RFC 7541, A).
const STATIC_INDEX: u32 = 1;
const NAME: &[u8] = b":authority";
/// The name in Huffman's code.
const NAME_CODED: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];

/// The position in a header field (RFC 7541, 5 and 6).
#[derive(Debug)]
enum Field {
    /// Before one.
    Start,
    /// In the later octets of a number.
    Number { value: u32, shift: u32, then: Then },
    /// Before the length of a name.
    NameLength,
    /// Before the length of a value.
    ValueLength(Whose),
    /// In a name.
    Name {
        left: u32,
        expected: &'static [u8],
        may_be: Whose,
    },
    /// In a value.
    Value { left: u32, octets: Octets },
    /// It does not parse.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Authority,
    Other,
}

/// How a string is written.
#[derive(Clone, Copy, Debug)]
enum Coding {
    Plain,
    Huffman,
}

/// What a number is for.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// A field of the table, or the table's size: complete with it.
    Nothing,
    /// The name's index; zero if the name follows.
    NameIndex,
    /// The length of a name.
    Name(Coding),
    /// The length of a value.
    Value(Coding, Whose),
}

/// What to do with the octets of a value.
#[derive(Debug)]
enum Octets {
    Kept,
    Plain,
    Huffman(Code),
}

impl Field {
    fn octet(&mut self, octet: u8) -> u8 {
        match self {
            Self::Lost => {}
            Self::Start => {
                let (prefix, then) = match octet.leading_zeros() {
                    0 => (7, Then::Nothing),
                    1 => (6, Then::NameIndex),
                    2 => (5, Then::Nothing),
                    _ => (4, Then::NameIndex),
                };
                *self = Self::number(octet, prefix, then);
            }
            Self::NameLength => *self = Self::number(octet, 7, Then::Name(Coding::of(octet))),
            Self::ValueLength(whose) => {
                *self = Self::number(octet, 7, Then::Value(Coding::of(octet), *whose));
            }
            Self::Number { value, shift, then } => {
                // h2 accepts no length of more than 28 bits.
                if *shift > 21 {
                    *self = Self::Lost;
                    return octet;
                }
                *value += u32::from(octet & 0x7f) << *shift;
                *shift += 7;
                if octet & 0x80 == 0 {
                    *self = Self::after(*value, *then);
                }
            }
            Self::Name {
                left,
                expected,
                may_be,
            } => {
                match expected.split_first() {
                    Some((next, rest)) if *next == octet => *expected = rest,
                    _ => *may_be = Whose::Other,
                }
                *left -= 1;
                if *left == 0 {
                    let whole = expected.is_empty();
                    *self = Self::ValueLength(if whole { *may_be } else { Whose::Other });
                }
            }
            Self::Value { left, octets } => {
                let taken = match octets {
                    Octets::Kept => octet,
                    Octets::Plain => plain(octet),
                    Octets::Huffman(code) => code.octet(octet),
                };
                *left -= 1;
                if *left == 0 {
                    *self = Self::Start;
                }
                return taken;
            }
        }
        octet
    }

    /// A number that begins with the lowest `prefix` bits of this octet.
    const fn number(octet: u8, prefix: u8, then: Then) -> Self {
        let most = (1 << prefix) - 1;
        let value = (octet & most) as u32;
        if octet & most == most {
            Self::Number {
                value,
                shift: 0,
                then,
            }
        } else {
            Self::after(value, then)
        }
    }

    const fn after(number: u32, then: Then) -> Self {
        match then {
            Then::Nothing => Self::Start,
            Then::NameIndex if number == 0 => Self::NameLength,
            Then::NameIndex if number == STATIC_INDEX => Self::ValueLength(Whose::Authority),
            Then::NameIndex => Self::ValueLength(Whose::Other),
            Then::Name(_) if number == 0 => Self::ValueLength(Whose::Other),
            Then::Name(coding) => Self::Name {
                left: number,
                expected: match coding {
                    Coding::Plain => NAME,
                    Coding::Huffman => NAME_CODED,
                },
                may_be: Whose::Authority,
            },
            Then::Value(..) if number == 0 => Self::Start,
            Then::Value(coding, whose) => Self::Value {
                left: number,
                octets: match (whose, coding) {
                    (Whose::Other, _) => Octets::Kept,
                    (Whose::Authority, Coding::Plain) => Octets::Plain,
                    (Whose::Authority, Coding::Huffman) => Octets::Huffman(Code::new()),
                },
            },
        }
    }
}

impl Coding {
    const fn of(octet: u8) -> Self {
        if octet & 0x80 == 0 {
            Self::Plain
        } else {
            Self::Huffman
        }
    }
}

/// Keeps an octet that is allowed anywhere in a host name; replaces any other by a hyphen.
const fn plain(octet: u8) -> u8 {
    match octet {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => octet,
        _ => b'-',
    }
}

/// The number of codes of each length in HPACK's Huffman code, from one bit on (RFC 7541, B). The code is canonical, so
/// these counts suffice to find the end of each code.
const CODES: [u32; 30] = [
    0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29,
    0, 4,
];

/// A partially read code.
#[derive(Clone, Copy, Debug)]
struct Code {
    bits: u32,
    length: usize,
    /// The first code of this length.
    first: u32,
}

impl Code {
    const fn new() -> Self {
        Self {
            bits: 0,
            length: 0,
            first: 0,
        }
    }

    fn octet(&mut self, octet: u8) -> u8 {
        (0..8)
            .rev()
            .fold(0, |taken, place| taken << 1 | self.bit(octet >> place & 1))
    }

    /// The next bit, changed if it would complete the code of an octet that is not allowed in a host. Codes of ten bits
    /// and more are left alone: no client is known to send them here, and h2 refuses the invalid ones.
    fn bit(&mut self, bit: u8) -> u8 {
        let before = (self.bits, self.length);
        let taken = match before {
            // A space or a percent sign would follow: a hyphen or a dot.
            (0b0101, 4) => 1,
            // A slash: a three.
            (0b01100, 5) => 1,
            // A colon: a B.
            (0b10_1110, 6) => 1,
            _ => bit,
        };
        self.bits = self.bits << 1 | u32::from(taken);
        self.first <<= 1;
        self.length += 1;
        match CODES.get(self.length - 1) {
            Some(count) if self.bits >= self.first + count => self.first += count,
            // Complete, or none at all.
            _ => *self = Self::new(),
        }
        taken
    }
}

#[cfg(test)]
mod tests;
