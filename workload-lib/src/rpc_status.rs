//! The details of a gRPC status (`google.rpc.Status` in `grpc-status-details-bin`), as far as refusals need them.
//!
//! The messages stand here, and not in a crate of generated ones, because an agent should not have to build more than
//! these four.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_mesh::refusal::GrpcCode;
use prost::Message;

const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.ErrorInfo`: why, in whose words, and with what particulars.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ErrorInfo {
    #[prost(string, tag = "1")]
    pub(crate) reason: String,
    #[prost(string, tag = "2")]
    pub(crate) domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(crate) metadata: BTreeMap<String, String>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Span>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Span {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// A status with these details.
pub(crate) fn status(
    code: tonic::Code,
    message: &str,
    info: &ErrorInfo,
    retry_after: Option<Duration>,
) -> tonic::Status {
    let retry = retry_after.map(|delay| RetryInfo {
        retry_delay: Some(Span {
            seconds: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(delay.subsec_nanos()).unwrap_or_default(),
        }),
    });
    let retry = retry.map(|retry| any(RETRY_INFO, &retry));
    let details = Details {
        code: code.into(),
        message: message.to_owned(),
        details: retry.into_iter().chain([any(ERROR_INFO, info)]).collect(),
    };
    tonic::Status::with_details(code, message, details.encode_to_vec().into())
}

/// The error and the delay in the details of a status; `None` if they name no error.
pub(crate) fn details(status: &tonic::Status) -> Option<(ErrorInfo, Option<Duration>)> {
    let all = Details::decode(status.details()).ok()?.details;
    let value = |url: &str| all.iter().find(|any| any.type_url == url);
    let info = ErrorInfo::decode(&*value(ERROR_INFO)?.value).ok()?;
    let delay = value(RETRY_INFO)
        .and_then(|any| RetryInfo::decode(&*any.value).ok()?.retry_delay)
        .and_then(|span| {
            let seconds = u64::try_from(span.seconds).ok()?;
            let nanos = u32::try_from(span.nanos).ok()?;
            Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanos.into()))
        });
    Some((info, delay))
}

fn any(type_url: &str, message: &impl Message) -> Any {
    Any {
        type_url: type_url.to_owned(),
        value: message.encode_to_vec(),
    }
}

/// The policy core's code as tonic's.
pub(crate) const fn code(code: GrpcCode) -> tonic::Code {
    match code {
        GrpcCode::InvalidArgument => tonic::Code::InvalidArgument,
        GrpcCode::PermissionDenied => tonic::Code::PermissionDenied,
        GrpcCode::ResourceExhausted => tonic::Code::ResourceExhausted,
        GrpcCode::FailedPrecondition => tonic::Code::FailedPrecondition,
        GrpcCode::Unavailable => tonic::Code::Unavailable,
        GrpcCode::Unauthenticated => tonic::Code::Unauthenticated,
    }
}
