//! The workloads as the show sees them: orders go in, events come out.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::mpsc;

use super::{Deadline, Stage};
use crate::event::{Event, Order};
use crate::script::Name;

/// The workloads. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Cast {
    workloads: BTreeMap<Name, Workload>,
    heard: mpsc::UnboundedReceiver<(Name, Heard)>,
    /// Events that nobody has asked for yet, the oldest first.
    kept: VecDeque<(Name, Event)>,
    deadline: Deadline,
}

#[derive(Debug)]
struct Workload {
    _child: Child,
    orders: ChildStdin,
}

#[derive(Debug)]
enum Heard {
    Event(Event),
    Nonsense(String),
    Ended,
}

impl Cast {
    /// Starts all workloads.
    pub(crate) fn start(stage: &Stage) -> anyhow::Result<Self> {
        let (tell, heard) = mpsc::unbounded_channel();
        let mut workloads = BTreeMap::new();
        for name in Name::ALL {
            let mut child = stage.start_role(name)?;
            let (Some(orders), Some(events)) = (child.stdin.take(), child.stdout.take()) else {
                bail!("{name} was started without pipes");
            };
            tokio::spawn(listen(name, events, tell.clone()));
            workloads.insert(
                name,
                Workload {
                    _child: child,
                    orders,
                },
            );
        }
        Ok(Self {
            workloads,
            heard,
            kept: VecDeque::new(),
            deadline: stage.deadline(),
        })
    }

    /// Gives an order.
    pub(crate) async fn order(&mut self, name: Name, order: &Order) -> anyhow::Result<()> {
        let workload = self
            .workloads
            .get_mut(&name)
            .with_context(|| format!("{name} was never started"))?;
        let line = format!("{}\n", serde_json::to_string(order)?);
        workload
            .orders
            .write_all(line.as_bytes())
            .await
            .with_context(|| format!("giving an order to {name}"))
    }

    /// Waits for the first event, also of those that came already, that `pick` makes something of. All others stay.
    /// A fault is an error.
    pub(crate) async fn expect<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(Name, &Event) -> Option<T>,
    ) -> anyhow::Result<T> {
        let found = self.kept.iter().enumerate();
        let found = found.map(|(index, (name, event))| (index, pick(*name, event)));
        if let Some((index, Some(picked))) = found.into_iter().find(|(_, picked)| picked.is_some())
        {
            self.kept.remove(index);
            return Ok(picked);
        }
        loop {
            let (name, event) = self.deadline.wait(what, hear(&mut self.heard)).await??;
            if let Event::Fault { why } = event {
                bail!("{name}: {why}");
            }
            match pick(name, &event) {
                Some(picked) => return Ok(picked),
                None => self.kept.push_back((name, event)),
            }
        }
    }

    /// The next event of any kind, however long it takes. What nobody asked for is given up.
    pub(crate) async fn next(&mut self) -> anyhow::Result<(Name, Event)> {
        self.kept.clear();
        hear(&mut self.heard).await
    }
}

/// The next event. The end of a workload is an error.
async fn hear(heard: &mut mpsc::UnboundedReceiver<(Name, Heard)>) -> anyhow::Result<(Name, Event)> {
    match heard.recv().await {
        Some((name, Heard::Event(event))) => Ok((name, event)),
        Some((name, Heard::Nonsense(line))) => {
            bail!("{name} said something that is no event: {line:?}")
        }
        Some((name, Heard::Ended)) => bail!("{name} ended before its time"),
        None => bail!("all workloads have ended"),
    }
}

async fn listen(name: Name, events: ChildStdout, tell: mpsc::UnboundedSender<(Name, Heard)>) {
    let mut lines = BufReader::new(events).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let heard = match serde_json::from_str(&line) {
            Ok(event) => Heard::Event(event),
            Err(_) => Heard::Nonsense(line),
        };
        if tell.send((name, heard)).is_err() {
            return;
        }
    }
    drop(tell.send((name, Heard::Ended)));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::Arrival;

    fn arrival(number: u64) -> Event {
        Event::Arrived(Arrival {
            number,
            caller: String::new(),
            action: String::new(),
            refusal: None,
        })
    }

    fn cast() -> (Cast, mpsc::UnboundedSender<(Name, Heard)>) {
        let (tell, heard) = mpsc::unbounded_channel();
        let deadline = Deadline::after(Duration::from_secs(60));
        (
            Cast {
                workloads: BTreeMap::new(),
                heard,
                kept: VecDeque::new(),
                deadline,
            },
            tell,
        )
    }

    fn number(event: &Event) -> Option<u64> {
        match event {
            Event::Arrived(arrival) => Some(arrival.number),
            _ => None,
        }
    }

    #[tokio::test]
    async fn events_can_be_asked_for_in_another_order_than_they_came_and_each_once() {
        let (mut cast, tell) = cast();
        for n in 1..=3 {
            tell.send((Name::Coder, Heard::Event(arrival(n)))).unwrap();
        }
        let second = cast
            .expect("2", |_, event| number(event).filter(|n| *n == 2))
            .await
            .unwrap();
        let first = cast.expect("any", |_, event| number(event)).await.unwrap();
        let third = cast.expect("any", |_, event| number(event)).await.unwrap();
        assert_eq!([second, first, third], [2, 1, 3]);
    }

    #[tokio::test]
    async fn a_fault_and_an_end_are_errors_that_name_the_workload() {
        let (mut cast, tell) = cast();
        tell.send((
            Name::Coder,
            Heard::Event(Event::Fault {
                why: "no disk".into(),
            }),
        ))
        .unwrap();
        tell.send((Name::Planner, Heard::Ended)).unwrap();
        let mut fault = async || {
            cast.expect("x", |_, _| Some(()))
                .await
                .unwrap_err()
                .to_string()
        };
        assert_eq!(fault().await, "coder: no disk");
        assert_eq!(fault().await, "planner ended before its time");
    }
}
