//! Subjects of certificates: the names that SPIRE's certificates carry.

use rcgen::{DistinguishedName, DnType, DnValue};
use x509_parser::x509::X509Name;

/// A subject name with the attributes that SPIRE's certificates can have, each once. Empty ones are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// C, of two letters.
    pub country: String,
    /// O.
    pub organization: String,
    /// OU.
    pub organizational_unit: String,
    /// L.
    pub locality: String,
    /// ST.
    pub province: String,
    /// Street and house number.
    pub street_address: String,
    /// Postal code.
    pub postal_code: String,
    /// CN.
    pub common_name: String,
    /// The serial number of a thing, not of the certificate.
    pub serial_number: String,
}

impl Subject {
    /// The subject of SVIDs: C=US, O=SPIRE.
    #[must_use]
    pub fn svid() -> Self {
        Self {
            country: "US".into(),
            organization: "SPIRE".into(),
            ..Self::default()
        }
    }

    /// The default subject of authorities: C=US, O=SPIFFE.
    #[must_use]
    pub fn authority() -> Self {
        Self {
            organization: "SPIFFE".into(),
            ..Self::svid()
        }
    }

    /// What of a name can be carried on. Of several attributes of one type the last one stays, as everywhere here.
    pub(crate) fn of_name(name: &X509Name<'_>) -> Self {
        let mut subject = Self::default();
        for attribute in name.iter_attributes() {
            let Ok(value) = attribute.as_str() else {
                continue;
            };
            let value = value.to_owned();
            match attribute.attr_type().to_id_string().as_str() {
                "2.5.4.6" => subject.country = value,
                "2.5.4.10" => subject.organization = value,
                "2.5.4.11" => subject.organizational_unit = value,
                "2.5.4.7" => subject.locality = value,
                "2.5.4.8" => subject.province = value,
                "2.5.4.9" => subject.street_address = value,
                "2.5.4.17" => subject.postal_code = value,
                "2.5.4.3" => subject.common_name = value,
                "2.5.4.5" => subject.serial_number = value,
                _ => {}
            }
        }
        subject
    }

    /// In the order in which Go writes names.
    pub(crate) fn to_rcgen(&self) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        let attributes = [
            (DnType::CountryName, &self.country),
            (DnType::OrganizationName, &self.organization),
            (DnType::OrganizationalUnitName, &self.organizational_unit),
            (DnType::LocalityName, &self.locality),
            (DnType::StateOrProvinceName, &self.province),
            (DnType::from_oid(&[2, 5, 4, 9]), &self.street_address),
            (DnType::from_oid(&[2, 5, 4, 17]), &self.postal_code),
            (DnType::CommonName, &self.common_name),
            (DnType::from_oid(&[2, 5, 4, 5]), &self.serial_number),
        ];
        for (attribute, value) in attributes
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
        {
            name.push(attribute, text(value));
        }
        name
    }
}

/// A PrintableString where the text allows it, as Go writes names, else a UTF8String.
pub(crate) fn text(value: &str) -> DnValue {
    value.try_into().map_or_else(
        |_| DnValue::Utf8String(value.into()),
        DnValue::PrintableString,
    )
}
