//! The `systemd` workload attestor: the unit that the caller belongs to, as systemd says on the system's bus.

use std::sync::Arc;

use futures::FutureExt as _;
use zbus::connection::Builder;
use zbus::{Connection, ObjectPath, OwnedObjectPath, OwnedVariant};

use super::process::Process;
use super::{Patience, Values, WorkloadAttestor};
use crate::limits;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "/org/freedesktop/systemd1";
/// systemd's word for a process that belongs to no unit.
const NO_UNIT: &str = "org.freedesktop.systemd1.NoUnitForPID";

/// The attestor.
#[derive(Debug, Default)]
pub struct Systemd {
    /// Another bus than the system's.
    #[cfg(test)]
    bus: Option<String>,
}

/// Why systemd could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
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

    /// systemd is asked by number, which is the caller's as long as it lives: whether it still does is asked at the end.
    fn attest(self: Arc<Self>, process: Arc<Process>, _: Patience) -> Values {
        async move {
            let pid = process.pid().unsigned_abs();
            Ok(self.values(pid).await?)
        }
        .boxed()
    }
}

impl Systemd {
    /// Over a connection of its own, so that nobody has a name to send to for longer than this takes.
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
mod tests {
    //! Over a real bus, on which the test answers as systemd does.

    use std::io::{BufRead as _, BufReader};
    use std::process::{Child, Command, Stdio};

    use futures::StreamExt as _;
    use zbus::{MessageStream, Variant};

    use super::super::tests::has;
    use super::super::{Attestors, Caller};
    use super::*;

    /// A bus for the test alone.
    struct Bus {
        address: String,
        daemon: Child,
    }

    impl Bus {
        fn start() -> Option<Self> {
            let daemon = Command::new("dbus-daemon")
                .args(["--session", "--nofork", "--nopidfile", "--print-address"])
                .stdout(Stdio::piped())
                .spawn();
            let mut daemon = match daemon {
                Ok(daemon) => daemon,
                Err(error) => {
                    println!("not tried: dbus-daemon: {error}");
                    return None;
                }
            };
            let mut address = String::new();
            let mut printed = BufReader::new(daemon.stdout.take().unwrap());
            printed.read_line(&mut address).unwrap();
            let address = address.trim().to_owned();
            Some(Self { address, daemon })
        }
    }

    impl Drop for Bus {
        fn drop(&mut self) {
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
    }

    /// Answers for one process, which belongs to this unit.
    async fn systemd(bus: &Bus, pid: u32, id: &'static str) {
        let connection = Builder::address(bus.address.as_str())
            .build()
            .await
            .unwrap();
        let mut calls = MessageStream::from(&connection);
        connection.request_name(SYSTEMD).await.unwrap();
        tokio::spawn(async move {
            while let Some(Ok(call)) = calls.next().await {
                let header = call.header();
                match header.member().map(|member| member.to_string()).as_deref() {
                    Some("GetUnitByPID") if call.body().deserialize() == Ok(pid) => {
                        let unit = ObjectPath::try_from("/org/freedesktop/systemd1/unit/coder");
                        connection.reply(&header, &unit.unwrap()).await.unwrap();
                    }
                    Some("GetUnitByPID") => {
                        let why = "PID does not belong to any loaded unit.";
                        connection
                            .reply_error(&header, NO_UNIT, &why)
                            .await
                            .unwrap();
                    }
                    Some("Get") => {
                        let body = call.body();
                        let (interface, property): (&str, &str) = body.deserialize().unwrap();
                        assert_eq!(interface, "org.freedesktop.systemd1.Unit");
                        let value = match property {
                            "Id" => id,
                            _ => "/etc/systemd/system/coder.service",
                        };
                        connection
                            .reply(&header, &Variant::from(value))
                            .await
                            .unwrap();
                    }
                    _ => {}
                }
            }
        });
    }

    async fn attest(address: &str) -> Result<countersign_identity::SelectorSet, String> {
        let own = i32::try_from(std::process::id()).unwrap();
        let bus = Some(address.to_owned());
        Attestors::new(vec![Arc::new(Systemd { bus })])
            .attest(Caller::numbered(own).unwrap())
            .await
            .map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_process_of_a_unit_has_its_name_and_file() {
        let Some(bus) = Bus::start() else { return };
        systemd(&bus, std::process::id(), "coder.service").await;
        let selectors = attest(&bus.address).await.unwrap();
        assert!(has(&selectors, "systemd:id:coder.service"), "{selectors:?}");
        let path = "systemd:fragment_path:/etc/systemd/system/coder.service";
        assert!(has(&selectors, path), "{selectors:?}");
        assert_eq!(selectors.len(), 2);
    }

    #[tokio::test]
    async fn a_process_of_no_unit_has_no_selectors_and_that_is_no_failure() {
        let Some(bus) = Bus::start() else { return };
        systemd(&bus, 1, "coder.service").await;
        assert_eq!(attest(&bus.address).await.unwrap().len(), 0);
    }

    #[tokio::test]
    async fn without_systemd_on_the_bus_or_without_a_bus_it_fails_and_says_so() {
        let nowhere = attest("unix:path=/nowhere/bus").await.unwrap_err();
        assert!(nowhere.contains("could not ask systemd"), "{nowhere}");
        let Some(bus) = Bus::start() else { return };
        let nobody = attest(&bus.address).await.unwrap_err();
        assert!(nobody.contains("could not ask systemd"), "{nobody}");
        let long = "a".repeat(limits::UNIT_BYTES + 1).leak();
        systemd(&bus, std::process::id(), long).await;
        let long = attest(&bus.address).await.unwrap_err();
        assert!(long.contains("more than 4096"), "{long}");
    }
}
