//! What the show and its workloads say to each other: one JSON object per line, orders on a workload's standard input,
//! events on its standard output.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::script::Name;

/// What a workload is told to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum Order {
    /// Know where the others are.
    Know {
        /// Where each of them serves.
        places: BTreeMap<Name, SocketAddr>,
    },
    /// Planner: start a task.
    Task {
        /// What the reviewer does in the end.
        end: Ending,
    },
    /// Planner: start a piece of work in which the coder floods the reviewer.
    Flood,
    /// Planner: call the coder steadily.
    Steady,
    /// Planner: stop that, and say how it went.
    Rest,
    /// Intruder: get in somehow.
    Intrude,
}

/// How the reviewer ends a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ending {
    /// It calls the planner through its library.
    ByLibrary,
    /// It calls the planner by hand.
    ByHand,
}

/// What a workload tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// It has its first SVID.
    Joined(Svid),
    /// It has another SVID.
    Rotated(Svid),
    /// It can be called.
    Serving {
        /// Where.
        address: SocketAddr,
    },
    /// It handles a call that was permitted.
    Handling(Handling),
    /// It made a call.
    Made(Made),
    /// A request came in over a verified connection and was answered.
    Arrived(Arrival),
    /// The flood is over.
    Flooded(Flood),
    /// The steady calls are over.
    Rested(Steady),
    /// An order could not be carried out.
    Fault {
        /// Why.
        why: String,
    },
}

/// An SVID in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Svid {
    /// The SPIFFE ID.
    pub(crate) id: String,
    /// The serial number, decimal.
    pub(crate) serial: String,
    /// The end of its validity, in Unix seconds.
    pub(crate) not_after: u64,
}

/// A permitted call, as the callee's verified context says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Handling {
    /// Method and path.
    pub(crate) action: String,
    /// SPIFFE IDs: the originator first, the callee last.
    pub(crate) members: Vec<String>,
    /// The length of the chain.
    pub(crate) hop: u8,
    /// The effective hop limit.
    pub(crate) max_hops: u8,
    /// How many calls the callee may still make.
    pub(crate) remaining: u16,
}

/// A call, as the caller saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    /// SPIFFE IDs: the originator first, then all up to the caller.
    pub(crate) members: Vec<String>,
    /// The callee's SPIFFE ID.
    pub(crate) callee: String,
    /// Method and path.
    pub(crate) action: String,
    /// What it was made with.
    pub(crate) client: Client,
    /// What came of it.
    pub(crate) outcome: Outcome,
}

/// What a call was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Client {
    /// The library.
    Library,
    /// Code that signs and sends whatever it likes.
    HandMade,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The callee's handler answered.
    Answered,
    /// It was refused.
    Refused {
        /// The name on the wire.
        reason: String,
        /// By whom.
        by: By,
        /// What the application is told.
        sentence: String,
    },
    /// There was no answer.
    Failed {
        /// Why.
        why: String,
    },
}

/// Who refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum By {
    /// The caller's own library, before anything was sent.
    Caller,
    /// The callee.
    Callee,
}

/// A request as seen outside the inbound layer, with its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrival {
    /// Counts the requests to this process, from 1.
    pub(crate) number: u64,
    /// Who called, by the connection's certificate.
    pub(crate) caller: String,
    /// Method and path.
    pub(crate) action: String,
    /// The reason of the refusal that it was answered with.
    pub(crate) refusal: Option<String>,
}

/// The flood, as the one who made it saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Flood {
    /// Calls that were made.
    pub(crate) made: u32,
    /// Of which these were answered.
    pub(crate) served: u32,
    /// And these refused by the callee, by reason.
    pub(crate) refused: BTreeMap<String, u32>,
    /// And these came to another end; the first of them.
    pub(crate) other: Option<String>,
    /// From the first call to the last answer, in milliseconds.
    pub(crate) took_ms: u64,
    /// The longest wait that the callee named, in milliseconds.
    pub(crate) wait_ms: u64,
    /// Whether one more call was served after that wait.
    pub(crate) served_after_wait: bool,
}

/// The steady calls, as the one who made them saw them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Steady {
    /// Calls by a client that keeps its connection.
    pub(crate) kept: Tally,
    /// Calls that each opened a new connection.
    pub(crate) fresh: Tally,
    /// The first failure.
    pub(crate) first_failure: Option<String>,
    /// The serial numbers that the coder saw in the planner's certificates, in the order of their appearance.
    pub(crate) caller_serials: Vec<String>,
    /// Until when the certificates were valid that the coder presented, in the order of their appearance.
    pub(crate) callee_ends: Vec<u64>,
}

/// A count of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Made.
    pub(crate) made: u32,
    /// Of which failed.
    pub(crate) failed: u32,
}

/// What the coder says about a steady call, in the answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pong {
    /// The serial number in the certificate that the caller presented on this connection.
    pub(crate) caller_serial: String,
    /// Until when the certificate is valid that the coder presented on this connection.
    pub(crate) callee_end: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back<T>(value: &T) -> T
    where
        T: Serialize + serde::de::DeserializeOwned,
    {
        let line = serde_json::to_string(value).unwrap();
        assert!(!line.contains('\n'), "{line}");
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn orders_arrive_as_they_were_given() {
        let places = [(Name::Coder, "127.0.0.1:4000".parse().unwrap())].into();
        for order in [
            Order::Know { places },
            Order::Task {
                end: Ending::ByHand,
            },
            Order::Flood,
            Order::Rest,
        ] {
            assert_eq!(there_and_back(&order), order);
        }
    }

    #[test]
    fn events_arrive_as_they_were_told() {
        let made = Made {
            members: vec!["spiffe://td/a".into()],
            callee: "spiffe://td/b".into(),
            action: "POST /x".into(),
            client: Client::HandMade,
            outcome: Outcome::Refused {
                reason: "cycle_detected".into(),
                by: By::Callee,
                sentence: "Two\nlines.".into(),
            },
        };
        let flood = Flood {
            refused: [("rate_limited".into(), 80)].into(),
            ..Flood::default()
        };
        for event in [
            Event::Made(made),
            Event::Flooded(flood),
            Event::Rested(Steady::default()),
            Event::Fault { why: "x".into() },
        ] {
            assert_eq!(there_and_back(&event), event);
        }
    }

    #[test]
    fn what_is_no_event_is_not_taken_for_one() {
        for line in [
            "",
            "ready",
            "{}",
            r#"{"event":"unheard_of"}"#,
            r#"{"event":"joined","id":"x"}"#,
        ] {
            assert!(serde_json::from_str::<Event>(line).is_err(), "{line}");
        }
    }
}
