//! The workloads as the show sees them: orders go in, events come out.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::mpsc;

use crate::cluster::Cluster;
use crate::protocol::{Event, Order};
use crate::script::Name;

/// The workloads. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Workloads {
    running: BTreeMap<Name, (Child, ChildStdin)>,
    received: mpsc::UnboundedReceiver<(Name, anyhow::Result<Event>)>,
    /// Events that were received while another one was awaited, the oldest first.
    pending: VecDeque<(Name, Event)>,
}

impl Workloads {
    /// Starts all workloads.
    pub(crate) fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let (send, received) = mpsc::unbounded_channel();
        let mut running = BTreeMap::new();
        for name in Name::ALL {
            let mut child = cluster.start_workload(name)?;
            let (Some(orders), Some(events)) = (child.stdin.take(), child.stdout.take()) else {
                bail!("{name} was started without pipes");
            };
            tokio::spawn(receive(name, events, send.clone()));
            running.insert(name, (child, orders));
        }
        Ok(Self {
            running,
            received,
            pending: VecDeque::new(),
        })
    }

    /// Gives an order.
    pub(crate) async fn order(&mut self, name: Name, order: &Order) -> anyhow::Result<()> {
        let (_, orders) = self.running.get_mut(&name).context("it does not run")?;
        let line = format!("{}\n", serde_json::to_string(order)?);
        let written = orders.write_all(line.as_bytes()).await;
        written.with_context(|| format!("giving {name} the order {order:?}"))
    }

    /// Waits for the first event that `pick` returns something for, among the pending ones too. All others stay pending.
    pub(crate) async fn expect<T>(
        &mut self,
        mut pick: impl FnMut(Name, &Event) -> Option<T>,
    ) -> anyhow::Result<T> {
        let pending = self.pending.iter().enumerate();
        let mut found = pending.filter_map(|(at, (name, event))| Some((at, pick(*name, event)?)));
        if let Some((at, picked)) = found.next() {
            self.pending.remove(at);
            return Ok(picked);
        }
        drop(found);
        loop {
            let (name, event) = self.receive().await?;
            if let Event::Fault { error } = event {
                bail!("{name}: {error}");
            }
            match pick(name, &event) {
                Some(picked) => return Ok(picked),
                None => self.pending.push_back((name, event)),
            }
        }
    }

    /// The next event of any kind, however long it takes; pending ones are dropped.
    pub(crate) async fn next(&mut self) -> anyhow::Result<(Name, Event)> {
        self.pending.clear();
        self.receive().await
    }

    async fn receive(&mut self) -> anyhow::Result<(Name, Event)> {
        let (name, event) = self
            .received
            .recv()
            .await
            .context("all workloads have ended")?;
        Ok((name, event.with_context(|| name.to_string())?))
    }
}

async fn receive(
    name: Name,
    events: ChildStdout,
    send: mpsc::UnboundedSender<(Name, anyhow::Result<Event>)>,
) {
    let mut lines = BufReader::new(events).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let event =
            serde_json::from_str(&line).with_context(|| format!("{line:?} is not an event"));
        if send.send((name, event)).is_err() {
            return;
        }
    }
    drop(send.send((name, Err(anyhow::anyhow!("it ended too early")))));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Event {
        let address = ([127, 0, 0, 1], port).into();
        Event::Serving { address }
    }

    fn port(event: &Event) -> Option<u16> {
        match event {
            Event::Serving { address } => Some(address.port()),
            _ => None,
        }
    }

    #[tokio::test]
    async fn an_event_is_picked_once_and_in_any_order() {
        let (send, received) = mpsc::unbounded_channel();
        let mut workloads = Workloads {
            running: BTreeMap::new(),
            received,
            pending: VecDeque::new(),
        };
        for n in 1..=3 {
            send.send((Name::Coder, Ok(address(n)))).unwrap();
        }
        let error = "no disk".to_owned();
        send.send((Name::Coder, Ok(Event::Fault { error })))
            .unwrap();
        let second = workloads
            .expect(|_, event| port(event).filter(|n| *n == 2))
            .await;
        let first = workloads.expect(|_, event| port(event)).await;
        let third = workloads.expect(|_, event| port(event)).await;
        assert_eq!([second, first, third].map(Result::unwrap), [2, 1, 3]);
        let fault = workloads.expect(|_, event| port(event)).await;
        assert_eq!(fault.unwrap_err().to_string(), "coder: no disk");
    }
}
