//! PEM (RFC 7468): base64 in lines of 64 characters.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// One block, wiped from memory after use since it may hold a key.
pub(crate) fn block(label: &str, der: &[u8]) -> Zeroizing<String> {
    // Sized at once: growing would leave copies of a key behind.
    let mut pem = Zeroizing::new(String::with_capacity(der.len() * 3 / 2 + 128));
    let text = Zeroizing::new(STANDARD.encode(der));
    let mut rest = text.as_str();
    pem.push_str(&format!("-----BEGIN {label}-----\n"));
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
