//! The `confinement` workload attestor: what keeps a process from doing harm, as far as the kernel vouches for it.
//!
//! A selector is made only from what holds for every thread of the process, and only from what the process can't take back
//! by itself. Where that can't be found out, the selector is missing: a process never looks more confined than it is. What each
//! selector proves, and what not, stands in `docs/confinement.md`.

mod capability;
mod cgroup;
mod kernel_file;
mod task;

use std::sync::Arc;

use futures::FutureExt as _;

use self::capability::Capability;
use self::cgroup::{Hierarchies, Limits};
use self::task::{Facts, Seccomp, ThreadGroup};
use super::process::Process;
use super::{AttestorError, Deadline, Values, WorkloadAttestor, on_blocking_thread};

/// The attestor.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Confinement;

impl WorkloadAttestor for Confinement {
    fn name(&self) -> &'static str {
        "confinement"
    }

    fn attest(self: Arc<Self>, process: Arc<Process>, deadline: Deadline) -> Values {
        async move { on_blocking_thread(&process, move |process| values(process, &deadline)).await }
            .boxed()
    }
}

fn values(process: &Process, deadline: &Deadline) -> Result<Vec<String>, AttestorError> {
    let facts = task::facts_of_group(&ThreadGroup::Threads(process), deadline)?;
    let hierarchies = Hierarchies::of_this_process();
    let limits = match facts.cgroups() {
        Some(cgroups) => hierarchies.limits(cgroups, &facts),
        // Its threads are in several.
        None => Limits::default(),
    };
    let mut values = of_tasks(&facts);
    values.extend(of_limits(&limits));
    // The same of every process in the caller's cgroup: a process can confine a child and use the identity that the child
    // gets.
    let family = facts
        .cgroups()
        .and_then(|cgroups| hierarchies.place(cgroups, &facts));
    if let Some(place) = family
        && let Ok(facts) = task::facts_of_group(&ThreadGroup::Cgroup(&place), deadline)
    {
        let of_all = of_tasks(&facts).into_iter();
        values.extend(of_all.map(|value| format!("cgroup:{value}")));
    }
    Ok(values)
}

fn of_tasks(facts: &Facts) -> Vec<String> {
    let mut values = Vec::new();
    if facts.no_new_privs {
        values.push("no_new_privs:true".to_owned());
    }
    match facts.seccomp {
        Seccomp::Off => {}
        Seccomp::Filter => values.push("seccomp:filter".to_owned()),
        Seccomp::Strict => values.push("seccomp:strict".to_owned()),
    }
    let capabilities = facts.capabilities();
    if capabilities == 0 {
        values.push("capabilities:none".to_owned());
    }
    values.extend(
        Capability::all()
            .filter(|capability| !capability.is_in(capabilities))
            .map(|capability| format!("no_cap:{}", capability.name())),
    );
    // Who may mount, say, can make it writable again.
    if facts.read_only_root && !facts.can_escape() {
        values.push("root:read_only".to_owned());
    }
    if facts.has_own_user_namespace() {
        values.push("user_namespace:own".to_owned());
        if facts.is_without_root() {
            values.push("user_namespace:without_root".to_owned());
        }
    }
    values
}

/// Limits in steps, since a selector can't say "at most": a process gets one for each step that its limit keeps to.
fn of_limits(limits: &Limits) -> Vec<String> {
    const MEMORY_STEPS: u32 = 21;
    const PIDS_STEPS: u32 = 17;
    const CPU_STEPS: [u64; 10] = [
        100, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000,
    ];

    let mut values = Vec::new();
    if let Some(bytes) = limits.memory {
        values.push("memory:limited".to_owned());
        let steps = (0..MEMORY_STEPS).map(|step| 1_u64 << step);
        values.extend(steps.filter(|mib| bytes <= mib << 20).map(|mib| {
            if mib < 1024 {
                format!("memory:at_most:{mib}MiB")
            } else {
                format!("memory:at_most:{}GiB", mib / 1024)
            }
        }));
    }
    if let Some(pids) = limits.pids {
        values.push("pids:limited".to_owned());
        let steps = (0..PIDS_STEPS).map(|step| 1_u64 << step);
        values.extend(
            steps
                .filter(|step| pids <= *step)
                .map(|step| format!("pids:at_most:{step}")),
        );
    }
    if let Some(millis) = limits.cpu_millis {
        values.push("cpu:limited".to_owned());
        let steps = CPU_STEPS.into_iter().filter(|step| millis <= *step);
        values.extend(steps.map(|step| format!("cpu:at_most:{step}m")));
    }
    values
}

#[cfg(test)]
pub(super) mod test_cgroup;
#[cfg(test)]
mod tests;
