//! Answers of the API as JSON, in the shape that SPIRE prints with `-output json`.
//!
//! That is protobuf's own mapping with the fields' names as in the .proto files, empty fields included and absent
//! messages left out, on one line.

use countersign_daemon::cli::Printer;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::error::CommandError;

/// Prints a message; `name` is its full name in the .proto files.
pub(crate) fn print(
    printer: &mut Printer,
    name: &str,
    message: &impl Message,
) -> Result<(), CommandError> {
    let value = to_json(name, message).map_err(CommandError::Answer)?;
    printer.line(value);
    Ok(())
}

fn to_json(name: &str, message: &impl Message) -> Result<Value, String> {
    let pool =
        DescriptorPool::decode(countersign_proto::DESCRIPTOR_SET).map_err(|e| e.to_string())?;
    let descriptor = pool
        .get_message_by_name(name)
        .ok_or_else(|| format!("no message is called {name}"))?;
    let bytes = message.encode_to_vec();
    let message =
        DynamicMessage::decode(descriptor, bytes.as_slice()).map_err(|e| e.to_string())?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(false);
    let value = message.serialize_with_options(serde_json::value::Serializer, &options);
    Ok(without_nulls(value.map_err(|e| e.to_string())?))
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
        let json = to_json("spire.api.types.JoinToken", &token).unwrap();
        assert_eq!(json.to_string(), r#"{"expires_at":"5","value":"token"}"#);
    }

    #[test]
    fn empty_fields_are_there_and_absent_messages_are_not() {
        let json = to_json("spire.api.types.Agent", &types::Agent::default()).unwrap();
        assert_eq!(json["selectors"], Value::Array(Vec::new()));
        assert_eq!(json["banned"], Value::Bool(false));
        assert_eq!(json["x509svid_expires_at"], Value::from("0"));
        assert!(json.get("id").is_none());
    }
}
