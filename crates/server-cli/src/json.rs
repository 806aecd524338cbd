//! Answers of the API as JSON, in the shape that SPIRE prints with `-output json`.
//!
//! That is protobuf's own mapping with the fields' names as in the .proto files, empty fields included and absent
//! messages left out, on one line.

use countersign_daemon::cli::Printer;
use countersign_identity::bundle::document::Unwritable;
use prost::{DecodeError, Name};
use prost_reflect::{DescriptorError, DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

/// Why an answer can't be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    /// The message is not what the .proto files describe, or the other way round: a bug.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// The .proto files have no such message: a bug.
    #[error("no message is called {0}")]
    UnknownMessage(String),
    /// The message can't be read by its description: a bug.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The message has no JSON form.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The server's bundle breaks a rule.
    #[error(transparent)]
    Bundle(#[from] countersign_proto::convert::bundle::InvalidBundle),
    /// The bundle can't be written as a SPIFFE bundle document.
    #[error(transparent)]
    Document(#[from] Unwritable),
    /// A part without which the answer says nothing.
    #[error("server response missing {0}")]
    Missing(&'static str),
}

/// Prints a message.
pub(crate) fn print(printer: &mut Printer, message: &impl Name) -> Result<(), AnswerError> {
    printer.line(to_json(message)?);
    Ok(())
}

fn to_json<M: Name>(message: &M) -> Result<Value, AnswerError> {
    let pool = DescriptorPool::decode(countersign_proto::DESCRIPTOR_SET)?;
    let name = M::full_name();
    let descriptor = pool.get_message_by_name(&name);
    let descriptor = descriptor.ok_or(AnswerError::UnknownMessage(name))?;
    let bytes = message.encode_to_vec();
    let message = DynamicMessage::decode(descriptor, bytes.as_slice())?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(false);
    let value = message.serialize_with_options(serde_json::value::Serializer, &options)?;
    Ok(without_nulls(value))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                kept.map(|(name, value)| (name, without_nulls(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use countersign_proto::spire::api::types;

    use super::*;

    #[test]
    fn a_join_token_looks_as_spire_prints_it() {
        let token = types::JoinToken {
            value: "token".into(),
            expires_at: 5,
        };
        let json = to_json(&token).unwrap();
        assert_eq!(json.to_string(), r#"{"expires_at":"5","value":"token"}"#);
    }

    #[test]
    fn empty_fields_are_there_and_absent_messages_are_not() {
        let json = to_json(&types::Agent::default()).unwrap();
        assert_eq!(json["selectors"], Value::Array(Vec::new()));
        assert_eq!(json["banned"], Value::Bool(false));
        assert_eq!(json["x509svid_expires_at"], Value::from("0"));
        assert!(json.get("id").is_none());
    }
}
