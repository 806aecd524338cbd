//! What is read, against what was sent. That h2 then takes it stands in `tests/connections/unix.rs`.

use super::*;

/// Reads `sent` in pieces that end at these places.
fn read_in(sent: &[u8], places: &[usize]) -> Vec<u8> {
    let mut requests = AnyAuthority::new(()).requests;
    let mut octets = sent.to_vec();
    let mut rest = octets.as_mut_slice();
    let mut done = 0;
    for place in places {
        let (piece, after) = rest.split_at_mut(place - done);
        requests.read(piece);
        (rest, done) = (after, *place);
    }
    requests.read(rest);
    octets
}

/// What is read, which must be the same wherever the pieces end.
fn read(sent: &[u8]) -> Vec<u8> {
    let whole = read_in(sent, &[]);
    for place in 0..=sent.len() {
        assert_eq!(read_in(sent, &[place]), whole, "cut at {place}");
    }
    assert_eq!(
        read_in(sent, &(0..sent.len()).collect::<Vec<_>>()),
        whole,
        "one by one"
    );
    whole
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, 1]);
    frame.extend(payload);
    frame
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, &frames.concat()].concat()
}

fn string(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

#[test]
fn what_is_no_host_is_replaced_octet_by_octet() {
    for (sent, taken) in [
        ("localhost", "localhost"),
        ("tmp%2Fa%2Fx.sock", "tmp-2Fa-2Fx.sock"),
        ("/tmp/api.sock", "-tmp-api.sock"),
        ("unix:///tmp/a", "unix----tmp-a"),
        ("\u{e9}", "--"),
    ] {
        for (name, value) in [
            // As Netty writes it, with an index for the name; as the C core does, spelled out; never to be indexed.
            (vec![0x41], sent),
            ([&[0x40], &*string(b":authority")].concat(), sent),
            (vec![0x11], sent),
        ] {
            let block = |value: &str| {
                [
                    &[0x82, 0x86][..],
                    &name,
                    &string(value.as_bytes()),
                    &[0x84, 0xc0],
                ]
                .concat()
            };
            let all = |value: &str| {
                connection(&[
                    frame(4, 0, &[]),
                    frame(HEADERS, 4, &block(value)),
                    frame(0, 1, b"/%:"),
                ])
            };
            assert_eq!(read(&all(value)), all(taken), "{sent}");
        }
    }
}

#[test]
fn other_fields_and_bodies_stay_as_they_are() {
    let fields: [&[u8]; 5] = [
        &[0x44, 5, b'/', b'%', b'/', b'/', b'/'],
        &[
            &[0x40][..],
            &string(b":authorita"),
            &string(b"/%"),
            &[0x40],
            &string(b":authority2"),
            &string(b"/%"),
        ]
        .concat(),
        // An index of more than one octet, a change of the table's size, a long value.
        &[
            &[0xff, 0x80, 0x01, 0x3f, 0xe1, 0x1f, 0x04, 0x7f, 0x81, 0x01][..],
            &[b'/'; 256],
        ]
        .concat(),
        &[0x40, 0, 1, b'/'],
        &[0x01, 0],
    ];
    for field in fields {
        let all = connection(&[
            frame(HEADERS, 4, &[field, &[0x82]].concat()),
            frame(0, 0, &[b'/'; 300]),
            frame(HEADERS, 4, field),
        ]);
        assert_eq!(read(&all), all);
    }
}

#[test]
fn a_field_is_found_across_padding_and_continuations() {
    let sent = |value: &[u8; 6]| {
        let (first, second) = value.split_at(3);
        let padded = [&[3, 0, 0, 0, 0, 9, 0x82, 0x41, 6][..], first, b"///"].concat();
        connection(&[
            frame(HEADERS, PADDED | PRIORITY, &padded),
            frame(CONTINUATION, 0, &[]),
            frame(CONTINUATION, 4, &[second, &[0x04, 1, b'/']].concat()),
            // The next block begins anew.
            frame(HEADERS, PRIORITY | 4, &[0, 0, 0, 0, b'/', 0x41, 1, b'a']),
        ])
    };
    assert_eq!(read(&sent(b"a/b%cd")), sent(b"a-b-cd"));
}

/// Writes in HPACK's Huffman code the characters that the tests need.
fn huffman(text: &str) -> Vec<u8> {
    let mut bits = String::new();
    for c in text.chars() {
        bits += match c {
            'a' => "00011",
            '2' => "00010",
            't' => "01001",
            '%' => "010101",
            ' ' => "010100",
            '-' => "010110",
            '.' => "010111",
            '/' => "011000",
            '3' => "011001",
            'F' => "1100001",
            ':' => "1011100",
            'B' => "1011101",
            'X' => "11111100",
            '~' => "1111111111101",
            '\u{1}' => "11111111111111111011000",
            _ => panic!("{c:?}"),
        };
    }
    while !bits.len().is_multiple_of(8) {
        bits.push('1');
    }
    let octet = |at: usize| u8::from_str_radix(&bits[at..at + 8], 2).unwrap();
    (0..bits.len()).step_by(8).map(octet).collect()
}

#[test]
fn in_huffmans_code_a_replacement_has_as_many_bits() {
    let all = |text: &str| {
        let coded = huffman(text);
        let length = 0x80 | u8::try_from(coded.len()).unwrap();
        let name = [&[0x40, 0x88][..], NAME_CODED].concat();
        let field = [&[0x41, length][..], &coded, &name, &[length], &coded].concat();
        connection(&[frame(HEADERS, 4, &field)])
    };
    assert_eq!(read(&all("ta%2F2a")), all("ta.2F2a"));
    assert_eq!(read(&all("/ta/:t")), all("3ta3Bt"));
    assert_eq!(read(&all("X~\u{1} %/:")), all("X~\u{1}-.3B"));
}

#[test]
fn the_code_is_complete() {
    let sum: u32 = CODES
        .iter()
        .enumerate()
        .map(|(index, count)| count << (29 - index))
        .sum();
    assert_eq!(sum, 1 << 30, "no sequence of bits is without a code");
    assert_eq!(CODES.iter().sum::<u32>(), 257, "256 octets and the end");
}

#[test]
fn what_is_not_http2_or_does_not_parse_goes_on_unchanged() {
    for sent in [
        b"GET /a%2F HTTP/1.1\r\nhost: /tmp/a:b\r\n\r\n".to_vec(),
        [PREFACE, b"\0"].concat(),
        // A number that never ends, padding beyond the frame, a priority beyond it, no padding length at all.
        connection(&[frame(HEADERS, 4, &[0xff; 40]), frame(HEADERS, 4, b"A\x01/")]),
        connection(&[frame(HEADERS, PADDED, &[9, b'/'])]),
        connection(&[frame(HEADERS, PRIORITY, b"///")]),
        connection(&[frame(HEADERS, PADDED, &[])]),
    ] {
        assert_eq!(read(&sent), sent);
    }
}

proptest::proptest! {
    /// A caller can send anything: it ends, changes nothing else, and does not depend on how it was cut.
    #[test]
    fn nothing_panics_and_lengths_stay(octets: Vec<u8>, frames: Vec<(u8, u8, Vec<u8>)>, cut: proptest::sample::Index) {
        let frames: Vec<_> = frames
            .into_iter()
            .map(|(kind, flags, payload)| frame(kind % 10, flags, &payload))
            .collect();
        for sent in [octets.clone(), [PREFACE, &octets].concat(), connection(&frames)] {
            let taken = read_in(&sent, &[]);
            proptest::prop_assert_eq!(taken.len(), sent.len());
            let place = cut.index(sent.len() + 1);
            proptest::prop_assert_eq!(read_in(&sent, &[place]), taken);
        }
    }
}
