//! What the show and its workloads say to each other: one JSON object per line, orders on a workload's standard input,
//! events on its standard output.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::script::Name;

/// What a workload is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum Order {
    /// All: make clients for the others, which serve at these addresses.
    Connect {
        addresses: BTreeMap<Name, SocketAddr>,
    },
    /// Planner: start a task, which the reviewer will try to hand back in this way.
    Task { hand_back: Client },
    /// Planner: start a chain in which the coder floods the reviewer.
    Flood,
    /// Planner: call the coder steadily from now on.
    StartCalls,
    /// Planner: stop that, and report.
    StopCalls,
    /// Intruder: try to call the reviewer.
    Intrude,
}

/// What a workload reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// It has its first SVID.
    Joined(Svid),
    /// It has another SVID.
    Rotated(Svid),
    /// It can be called.
    Serving { address: SocketAddr },
    /// Its handler runs for a call that was permitted.
    Handling(Handling),
    /// A call of its own has ended.
    Called(Called),
    /// A request came in over a verified connection and was answered.
    Arrived(Arrival),
    /// The flood is over.
    Flooded(Flood),
    /// The steady calls are over.
    CallsStopped(Steady),
    /// An order could not be carried out.
    Fault { error: String },
}

/// An SVID in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Svid {
    pub(crate) id: String,
    /// Decimal.
    pub(crate) serial: String,
    /// In Unix seconds.
    pub(crate) not_after: u64,
}

/// A permitted call, as the callee's verified context says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Handling {
    /// Method and path.
    pub(crate) action: String,
    /// The SPIFFE IDs of the chain: the originator first, the callee last.
    pub(crate) members: Vec<String>,
    pub(crate) hop: u8,
    pub(crate) max_hops: u8,
    /// How many calls the callee may still make.
    pub(crate) remaining: u16,
}

/// A call, as its caller saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Called {
    /// The SPIFFE IDs of the chain, up to the caller.
    pub(crate) members: Vec<String>,
    pub(crate) callee: String,
    /// Method and path.
    pub(crate) action: String,
    pub(crate) client: Client,
    pub(crate) outcome: Outcome,
}

/// What a call is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Client {
    /// The library.
    Library,
    /// Code that signs and sends whatever it likes.
    HandMade,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(crate) enum Outcome {
    Answered,
    Refused {
        /// As it stands on the wire.
        reason: String,
        by: RefusedBy,
        /// What the application is told.
        sentence: String,
    },
    Failed {
        error: String,
    },
}

/// Who refused a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RefusedBy {
    /// The caller's own library, before anything was sent.
    Library,
    Callee,
}

/// A request as seen outside the inbound layer, with its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrival {
    /// Counts the requests to this process, from 1.
    pub(crate) number: u64,
    /// The SPIFFE ID in the caller's certificate.
    pub(crate) caller: String,
    /// Method and path.
    pub(crate) action: String,
    /// The reason, if the answer was a refusal.
    pub(crate) refusal: Option<String>,
}

/// The flood, as its caller saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Flood {
    pub(crate) served: u32,
    /// Calls that the callee refused, by reason.
    pub(crate) refused: BTreeMap<String, u32>,
    /// The first call that ended in any other way.
    pub(crate) other: Option<String>,
    pub(crate) took_ms: u64,
    /// The longest wait that the callee named with a refusal.
    pub(crate) wait_ms: u64,
    /// Whether one more call was served after that wait.
    pub(crate) served_after_wait: bool,
}

/// The steady calls, as their caller saw them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Steady {
    /// Calls over one client, which keeps its connection.
    pub(crate) kept: u32,
    /// Calls over a new connection each.
    pub(crate) fresh: u32,
    pub(crate) failed: u32,
    pub(crate) first_failure: Option<String>,
}

/// The members of a chain, by the last segments of their IDs.
pub(crate) fn path(members: &[String]) -> String {
    let names: Vec<_> = members.iter().map(|id| short(id)).collect();
    names.join(" → ")
}

/// The last segment of a SPIFFE ID.
pub(crate) fn short(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or(id)
}
