//! The scenes, in the order of their play. Each gives its orders, shows what the processes report, and holds that against
//! what should happen.

mod flood;
mod identity;
mod intruder;
mod keep;
mod rotation;
mod set;
mod task;

pub(crate) use flood::flood;
pub(crate) use identity::identity;
pub(crate) use intruder::intruder;
pub(crate) use keep::keep;
pub(crate) use rotation::{rotation, start_steady_calls};
pub(crate) use set::set;
pub(crate) use task::task;

use crate::event::{Arrival, Event, Handling, Made};
use crate::script::Name;
use crate::stage::Cast;

/// Waits until `name` tells that it handles such a call.
async fn handling(cast: &mut Cast, name: Name, action: &str) -> anyhow::Result<Handling> {
    let pick = |who, event: &Event| match event {
        Event::Handling(call) if who == name && call.action == action => Some(call.clone()),
        _ => None,
    };
    cast.expect(&format!("{name} to handle {action}"), pick)
        .await
}

/// Waits until `name` tells what came of such a call of its own.
async fn made(cast: &mut Cast, name: Name, action: &str) -> anyhow::Result<Made> {
    let pick = |who, event: &Event| match event {
        Event::Made(call) if who == name && call.action == action => Some(call.clone()),
        _ => None,
    };
    cast.expect(&format!("{name} to call {action}"), pick).await
}

/// Waits until `name` tells that such a request was answered.
async fn arrival(cast: &mut Cast, name: Name, action: &str) -> anyhow::Result<Arrival> {
    let pick = |who, event: &Event| match event {
        Event::Arrived(request) if who == name && request.action == action => Some(request.clone()),
        _ => None,
    };
    cast.expect(&format!("{name} to answer {action}"), pick)
        .await
}
