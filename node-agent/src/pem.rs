//! PEM (RFC 7468) as the state file and the command line write and read it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

const LINE: usize = 64;

/// Certificates, one block after the other.
pub(crate) fn certificates<'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>,
) -> String {
    certificates
        .into_iter()
        .map(|der| block("CERTIFICATE", der).as_str().to_owned())
        .collect()
}

/// A PKCS#8 private key.
pub(crate) fn private_key(pkcs8: &[u8]) -> Zeroizing<String> {
    block("PRIVATE KEY", pkcs8)
}

/// Reads all certificates of a text; other blocks are skipped.
pub(crate) fn read_certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_slice_iter(text).collect()
}

/// Reads the first PKCS#8 private key of a text.
pub(crate) fn read_private_key(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, pem::Error> {
    PrivatePkcs8KeyDer::from_pem_slice(text)
        .map(|key| Zeroizing::new(key.secret_pkcs8_der().to_vec()))
}

fn block(label: &str, der: &[u8]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    // Sized at once: growing would leave copies of a key behind.
    let mut text = Zeroizing::new(String::with_capacity(
        encoded.len() + encoded.len() / LINE + 128,
    ));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest
            .split_at_checked(LINE.min(rest.len()))
            .unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let ders: Vec<_> = [1_usize, 48, 64, 1000]
            .iter()
            .map(|n| CertificateDer::from(vec![7; *n]))
            .collect();
        let text = certificates(&ders);
        assert!(text.lines().all(|line| line.len() <= LINE), "{text}");
        assert_eq!(read_certificates(text.as_bytes()).unwrap(), ders);
        let key = private_key(&[9; 100]);
        assert_eq!(*read_private_key(key.as_bytes()).unwrap(), vec![9; 100]);
        assert!(read_private_key(text.as_bytes()).is_err());
    }
}
