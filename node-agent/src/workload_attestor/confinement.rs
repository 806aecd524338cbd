//! The `confinement` workload attestor: selectors for the kernel's restrictions on a process.
//!
//! A selector is issued only for a restriction that holds for every thread of the process, and that the process can't
//! lift by itself (decision 0021). If either is unknown, the selector is left out: a process never looks more confined
//! than it is. `docs/confinement.md` says what each selector proves, and what it does not.

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
        // Its threads are in different cgroups: no limit holds for all of them.
        None => Limits::default(),
    };
    let mut values = of_tasks(&facts);
    values.extend(of_limits(&limits));
    // The same for every process in the caller's cgroup, as `cgroup:` selectors: without them an unconfined process
    // could start a confined child and use the child's identity.
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
    // With CAP_SYS_ADMIN, for example, a process can remount its root writable.
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

/// Limits as a ladder of steps: selectors match only exactly, so a process gets an `at_most` selector for each step
/// that is not smaller than its limit.
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
