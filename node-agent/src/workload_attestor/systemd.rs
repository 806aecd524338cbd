//! The `systemd` workload attestor: the unit that the caller belongs to, as systemd reports it on the system bus
//! (decision 0023).

use std::sync::Arc;

use futures::FutureExt as _;
use zbus::connection::Builder;
use zbus::{Connection, ObjectPath, OwnedObjectPath, OwnedVariant};

use super::process::Process;
use super::{Deadline, Values, WorkloadAttestor};
use crate::limits;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "/org/freedesktop/systemd1";
/// systemd's word for a process that belongs to no unit.
const NO_UNIT: &str = "org.freedesktop.systemd1.NoUnitForPID";

/// The attestor.
#[derive(Debug, Default)]
pub(crate) struct Systemd {
    /// Another bus than the system's.
    #[cfg(test)]
    bus: Option<String>,
}

/// Why systemd could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SystemdError {
    /// The bus, or systemd, does not answer as it should.
    #[error("could not ask systemd for the unit of the process, on the system's bus: {0}")]
    Bus(#[from] zbus::Error),
    /// Longer than paths and units are.
    #[error("systemd says a {property} of {length} bytes, more than {max}", max = limits::UNIT_BYTES)]
    TooLong {
        /// Of the unit.
        property: &'static str,
        /// In bytes.
        length: usize,
    },
}

impl WorkloadAttestor for Systemd {
    fn name(&self) -> &'static str {
        "systemd"
    }

    /// systemd is asked by number, which is the caller's as long as it lives: whether it still does is asked at the
    /// end.
    fn attest(self: Arc<Self>, process: Arc<Process>, _: Deadline) -> Values {
        async move {
            let pid = process.pid().unsigned_abs();
            Ok(self.values(pid).await?)
        }
        .boxed()
    }
}

impl Systemd {
    /// Over a connection of its own, so that other users of the bus can send messages to it only while this takes.
    async fn values(&self, pid: u32) -> Result<Vec<String>, SystemdError> {
        let bus = self.builder().build().await?;
        let manager = "org.freedesktop.systemd1.Manager";
        let unit = bus
            .call_method(Some(SYSTEMD), MANAGER, Some(manager), "GetUnitByPID", &pid)
            .await;
        let unit: OwnedObjectPath = match unit {
            Ok(unit) => unit.body().deserialize()?,
            Err(zbus::Error::MethodError(name, ..)) if name == NO_UNIT => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let id = property(&bus, &unit, "Id").await?;
        let path = property(&bus, &unit, "FragmentPath").await?;
        Ok(vec![format!("id:{id}"), format!("fragment_path:{path}")])
    }

    fn builder(&self) -> Builder<'static> {
        #[cfg(test)]
        if let Some(bus) = &self.bus {
            return Builder::address(bus.as_str());
        }
        Builder::system()
    }
}

async fn property(
    bus: &Connection,
    unit: &ObjectPath<'_>,
    property: &'static str,
) -> Result<String, SystemdError> {
    let properties = "org.freedesktop.DBus.Properties";
    let which = ("org.freedesktop.systemd1.Unit", property);
    let answer = bus
        .call_method(Some(SYSTEMD), unit, Some(properties), "Get", &which)
        .await?;
    let value: OwnedVariant = answer.body().deserialize()?;
    let text = String::try_from(value)?;
    if text.len() > limits::UNIT_BYTES {
        let length = text.len();
        return Err(SystemdError::TooLong { property, length });
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
