//! A certificate's subject as Go's tools print it: RFC 2253, the most specific part first.

use std::fmt::Write as _;

use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The attributes that have names, in the order in which Go writes them into a certificate.
const NAMED: [(&str, &str); 9] = [
    ("2.5.4.6", "C"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.17", "POSTALCODE"),
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "SERIALNUMBER"),
];

/// The name: values of one kind joined by `+`, what has no name last and in hex.
pub(super) fn text(name: &X509Name<'_>) -> String {
    let values = |wanted: &str| {
        name.iter_attributes()
            .filter(|attribute| attribute.attr_type().to_id_string() == wanted)
            .map(|attribute| attribute.as_str().map(escaped).unwrap_or_default())
            .collect::<Vec<_>>()
    };
    let named = NAMED.iter().rev().filter_map(|(oid, short)| {
        let values: Vec<_> = values(oid)
            .iter()
            .map(|value| format!("{short}={value}"))
            .collect();
        (!values.is_empty()).then(|| values.join("+"))
    });
    let unnamed = name
        .iter_attributes()
        .filter(|attribute| {
            let oid = attribute.attr_type().to_id_string();
            !NAMED.iter().any(|(named, _)| *named == oid)
        })
        .map(raw);
    let mut unnamed: Vec<_> = unnamed.collect();
    unnamed.reverse();
    named.chain(unnamed).collect::<Vec<_>>().join(",")
}

fn raw(attribute: &AttributeTypeAndValue<'_>) -> String {
    let value = attribute.attr_value();
    let mut text = format!("{}=#", attribute.attr_type().to_id_string());
    // The tag, the length and the content, as they stand in the certificate.
    let content = value.data;
    let length = u8::try_from(content.len()).ok().filter(|len| *len < 0x80);
    if let (Ok(tag), Some(length)) = (u8::try_from(value.tag().0), length) {
        let _ = write!(text, "{tag:02x}{length:02x}");
    }
    for byte in content {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// RFC 2253, section 2.4.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (index, c) in value.chars().enumerate() {
        let special = match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => true,
            ' ' => index == 0 || index == last,
            '#' => index == 0,
            _ => false,
        };
        if special {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use rcgen::{DnType, DnValue, KeyPair};
    use x509_parser::certificate::X509Certificate;
    use x509_parser::prelude::FromDer as _;

    use super::*;

    fn printed(parts: &[(DnType, &str)]) -> String {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in parts {
            let value = DnValue::Utf8String((*value).into());
            params.distinguished_name.push(kind.clone(), value);
        }
        let cert = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let (_, cert) = X509Certificate::from_der(cert.der()).unwrap();
        text(cert.subject())
    }

    #[test]
    fn names_stand_in_gos_order_and_are_escaped() {
        let parts = [
            (DnType::CountryName, "US"),
            (DnType::OrganizationName, "SPIFFE, Inc."),
            (DnType::CommonName, " #1"),
            (DnType::CustomDnType(vec![2, 5, 4, 5]), "123"),
            (DnType::CustomDnType(vec![2, 5, 4, 45]), "ab"),
        ];
        let want = r"SERIALNUMBER=123,CN=\ #1,O=SPIFFE\, Inc.,C=US,2.5.4.45=#0c026162";
        assert_eq!(printed(&parts), want);
    }
}
