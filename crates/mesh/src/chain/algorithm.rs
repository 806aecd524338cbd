//! The two signature algorithms of version 1, and the one form of a signature.

use std::cmp::Ordering;

use countersign_identity::KeyType;
use countersign_identity::key::ecdsa_fixed;

/// How a link is signed. The key implies it; no other algorithm exists in version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA with SHA-256 on P-256, COSE algorithm −7.
    Es256,
    /// ECDSA with SHA-384 on P-384, COSE algorithm −35.
    Es384,
}

/// The order n of P-256 (SEC 2, 2.4.2).
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];
/// ⌊n / 2⌋ of P-256.
const P256_HALF: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0x80, 0x00, 0x00, 0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xde, 0x73, 0x7d, 0x56, 0xd3, 0x8b, 0xcf, 0x42, 0x79, 0xdc, 0xe5, 0x61, 0x7e, 0x31, 0x92, 0xa8,
];
/// The order n of P-384 (SEC 2, 2.5.1).
const P384_ORDER: [u8; 48] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc7, 0x63, 0x4d, 0x81, 0xf4, 0x37, 0x2d, 0xdf,
    0x58, 0x1a, 0x0d, 0xb2, 0x48, 0xb0, 0xa7, 0x7a, 0xec, 0xec, 0x19, 0x6a, 0xcc, 0xc5, 0x29, 0x73,
];
/// ⌊n / 2⌋ of P-384.
const P384_HALF: [u8; 48] = [
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xe3, 0xb1, 0xa6, 0xc0, 0xfa, 0x1b, 0x96, 0xef,
    0xac, 0x0d, 0x06, 0xd9, 0x24, 0x58, 0x53, 0xbd, 0x76, 0x76, 0x0c, 0xb5, 0x66, 0x62, 0x94, 0xb9,
];

impl Algorithm {
    /// The algorithm that a key of this type implies; `None` if it cannot sign links.
    #[must_use]
    pub const fn of(key_type: KeyType) -> Option<Self> {
        match key_type {
            KeyType::EcP256 => Some(Self::Es256),
            KeyType::EcP384 => Some(Self::Es384),
            KeyType::Rsa2048 | KeyType::Rsa4096 => None,
        }
    }

    /// The algorithm with this number in COSE's registry.
    pub(super) const fn from_cose(number: i64) -> Option<Self> {
        match number {
            -7 => Some(Self::Es256),
            -35 => Some(Self::Es384),
            _ => None,
        }
    }

    /// The number in COSE's registry.
    pub(super) const fn cose(self) -> i64 {
        match self {
            Self::Es256 => -7,
            Self::Es384 => -35,
        }
    }

    /// How long r and s are, in bytes.
    const fn scalar_len(self) -> usize {
        match self {
            Self::Es256 => P256_ORDER.len(),
            Self::Es384 => P384_ORDER.len(),
        }
    }

    const fn order(self) -> &'static [u8] {
        match self {
            Self::Es256 => &P256_ORDER,
            Self::Es384 => &P384_ORDER,
        }
    }

    const fn half_order(self) -> &'static [u8] {
        match self {
            Self::Es256 => &P256_HALF,
            Self::Es384 => &P384_HALF,
        }
    }

    /// Whether a signature is r ‖ s with 0 < r < n and 0 < s ≤ n/2.
    pub(super) fn is_well_formed(self, signature: &[u8]) -> bool {
        let Some((r, s)) = signature.split_at_checked(self.scalar_len()) else {
            return false;
        };
        // Big-endian numbers of the same length compare like their bytes.
        s.len() == self.scalar_len()
            && r.iter().any(|b| *b != 0)
            && r.cmp(self.order()) == Ordering::Less
            && s.iter().any(|b| *b != 0)
            && s.cmp(self.half_order()) != Ordering::Greater
    }

    /// Turns an ASN.1 signature (RFC 3279, 2.2.3) into r ‖ s with the smaller of the two possible s. `None` if it is not
    /// the DER of two positive numbers below the order's length.
    pub(crate) fn fixed_signature(self, der: &[u8]) -> Option<Vec<u8>> {
        let mut fixed = ecdsa_fixed(der, self.scalar_len())?;
        let (_, s) = fixed.split_at_mut(self.scalar_len());
        // s and n - s both verify: only one of them may stand in a link, or a chain would have several encodings.
        if (*s).cmp(self.half_order()) == Ordering::Greater {
            negate(s, self.order());
        }
        self.is_well_formed(&fixed).then_some(fixed)
    }
}

/// `number = order - number`, for a number below the order of the same length.
fn negate(number: &mut [u8], order: &[u8]) {
    let mut borrow = false;
    for (digit, of_order) in number.iter_mut().zip(order).rev() {
        let (difference, under) = of_order.overflowing_sub(*digit);
        let (difference, under_again) = difference.overflowing_sub(u8::from(borrow));
        *digit = difference;
        borrow = under || under_again;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_half_order_and_one_is_the_order() {
        for algorithm in [Algorithm::Es256, Algorithm::Es384] {
            let mut carry = 1_u16;
            for (half, whole) in algorithm.half_order().iter().zip(algorithm.order()).rev() {
                let sum = 2 * u16::from(*half) + carry;
                assert_eq!(sum & 0xff, u16::from(*whole));
                carry = sum >> 8;
            }
            assert_eq!(carry, 0);
        }
    }

    #[test]
    fn the_larger_of_the_two_s_becomes_the_smaller() {
        let algorithm = Algorithm::Es256;
        let mut s = algorithm.half_order().to_vec();
        negate(&mut s, algorithm.order());
        // n - ⌊n/2⌋ is one more than the half, so it is not the smaller one.
        let mut der = vec![0x30, 37, 0x02, 1, 1, 0x02, 32];
        der.extend(&s);
        let fixed = algorithm.fixed_signature(&der).unwrap();
        assert_eq!(&fixed[32..], algorithm.half_order());
    }

    #[test]
    fn signatures_out_of_range_are_not_well_formed() {
        let algorithm = Algorithm::Es256;
        let one = [[0; 31].as_slice(), &[1]].concat();
        let zero = vec![0; 32];
        let join = |r: &[u8], s: &[u8]| [r, s].concat();
        assert!(algorithm.is_well_formed(&join(&one, &one)));
        assert!(algorithm.is_well_formed(&join(&one, algorithm.half_order())));
        for bad in [
            join(&zero, &one),
            join(&one, &zero),
            join(algorithm.order(), &one),
            join(&one, algorithm.order()),
            join(&one, &one[1..]),
            join(&one, &[&one[..], &[0]].concat()),
            vec![],
        ] {
            assert!(!algorithm.is_well_formed(&bad));
        }
        let mut high = algorithm.half_order().to_vec();
        high[31] += 1;
        assert!(!algorithm.is_well_formed(&join(&one, &high)));
    }

    #[test]
    fn what_is_not_a_der_signature_is_refused() {
        for bad in [
            &[][..],
            &[0x30],
            &[0x30, 0],
            &[0x30, 6, 2, 1, 0, 2, 1, 0],
            &[0x30, 7, 2, 1, 1, 2, 1, 1, 0],
        ] {
            assert_eq!(Algorithm::Es256.fixed_signature(bad), None);
        }
    }
}
