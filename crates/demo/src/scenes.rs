//! The scenes, in their order. Each gives its orders, shows what the processes report, and adds its checks.

mod feedback_loop;
mod flood;
mod identity;
mod intruder;
mod look_around;
mod rotation;
mod setup;

pub(crate) use feedback_loop::feedback_loop;
pub(crate) use flood::flood;
pub(crate) use identity::identity;
pub(crate) use intruder::intruder;
pub(crate) use look_around::look_around;
pub(crate) use rotation::{rotation, start_steady_calls};
pub(crate) use setup::setup;

use crate::checks::Check;
use crate::cluster::Cluster;
use crate::protocol::{Arrival, Called, Event, Handling};
use crate::render::Renderer;
use crate::script::Name;
use crate::workloads::Workloads;

/// What all scenes have: the daemons, the output, and the checks so far.
pub(crate) struct Show {
    pub(crate) cluster: Cluster,
    pub(crate) out: Renderer,
    pub(crate) checks: Vec<Check>,
}

/// Waits until the handler of `name` runs for this action.
async fn handling(workloads: &mut Workloads, name: Name, action: &str) -> anyhow::Result<Handling> {
    let pick = |who, event: &Event| match event {
        Event::Handling(call) if who == name && call.action == action => Some(call.clone()),
        _ => None,
    };
    workloads.expect(pick).await
}

/// Waits until a call of `name` with this action has ended.
async fn called(workloads: &mut Workloads, name: Name, action: &str) -> anyhow::Result<Called> {
    let pick = |who, event: &Event| match event {
        Event::Called(call) if who == name && call.action == action => Some(call.clone()),
        _ => None,
    };
    workloads.expect(pick).await
}

/// Waits until `name` has answered a request with this action.
async fn arrival(workloads: &mut Workloads, name: Name, action: &str) -> anyhow::Result<Arrival> {
    let pick = |who, event: &Event| match event {
        Event::Arrived(request) if who == name && request.action == action => Some(request.clone()),
        _ => None,
    };
    workloads.expect(pick).await
}
