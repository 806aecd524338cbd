//! The other side: this program as a workload, told by its arguments what to do. It says when it is ready, begins with
//! the first line that it is given, and prints what it saw.

use std::path::{Path, PathBuf};

use countersign_agent::workload_client::WorkloadClient;
use prost::Message as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Stdin};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// So many connections with a stream of SVIDs each, until the end of the input.
pub(super) const STREAMS: &str = "workload-streams";
/// So many connections, from which so many bytes are read.
pub(super) const RAW: &str = "workload-raw";
/// A new connection and its first answer, so many times.
pub(super) const FIRST: &str = "workload-first";
/// A new connection and an echo, so many times.
pub(super) const ECHO: &str = "workload-echo";

/// What is echoed: about what a request takes.
pub(super) const ECHO_BYTES: usize = 128;

/// Acts, if these arguments say so.
pub(super) async fn run(args: &[String]) -> bool {
    let [verb, socket, numbers @ ..] = args else {
        return false;
    };
    let socket = PathBuf::from(socket);
    let numbers: Vec<usize> = numbers.iter().filter_map(|n| n.parse().ok()).collect();
    match (verb.as_str(), &numbers[..]) {
        (STREAMS, [count]) => streams(socket, *count).await,
        (RAW, [count, bytes]) => raw(&socket, *count, *bytes).await,
        (FIRST, [count]) => timed(*count, async || first(&socket).await).await,
        (ECHO, [count]) => timed(*count, async || echo(&socket).await).await,
        _ => return false,
    }
    true
}

/// The time of day in nanoseconds, which is the same in all processes.
#[expect(
    clippy::disallowed_methods,
    reason = "times of several processes are compared"
)]
pub(super) fn nanos() -> u128 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH)
        .expect("a time after 1970")
        .as_nanos()
}

async fn begin() -> tokio::io::Lines<BufReader<Stdin>> {
    println!("ready");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    lines
        .next_line()
        .await
        .expect("an input")
        .expect("a word to begin");
    lines
}

/// A message on one of the streams: which one, when, how large.
type Seen = (usize, u128, usize);

async fn streams(socket: PathBuf, count: usize) {
    let mut lines = begin().await;
    let (send, mut seen) = mpsc::unbounded_channel();
    for number in 0..count {
        let (socket, send) = (socket.clone(), send.clone());
        tokio::spawn(async move {
            if let Err(error) = stream(&socket, number, &send).await {
                println!("fault on stream {number}: {error}");
                std::process::exit(1);
            }
        });
    }
    let mut rounds = Rounds::of(count);
    loop {
        tokio::select! {
            Some(message) = seen.recv() => rounds.saw(message),
            line = lines.next_line() => match line {
                Ok(Some(_)) => rounds.count(),
                _ => return,
            },
        }
    }
}

/// That a stream is refused or ends is a fault.
async fn stream(
    socket: &Path,
    number: usize,
    send: &mpsc::UnboundedSender<Seen>,
) -> Result<(), String> {
    let mut client = WorkloadClient::connect(socket)
        .await
        .map_err(|e| e.to_string())?;
    let mut answers = client.x509_svids().await.map_err(|e| e.to_string())?;
    loop {
        let answer = answers.message().await.map_err(|e| e.to_string())?;
        let answer = answer.ok_or("the stream has ended")?;
        let _ = send.send((number, nanos(), answer.encoded_len()));
    }
}

/// Messages by stream, and by how many its stream had before.
struct Rounds {
    by_stream: Vec<Vec<Seen>>,
    told: usize,
}

impl Rounds {
    fn of(count: usize) -> Self {
        Self {
            by_stream: vec![Vec::new(); count],
            told: 0,
        }
    }

    fn least(&self) -> usize {
        self.by_stream
            .iter()
            .map(Vec::len)
            .min()
            .unwrap_or_default()
    }

    /// Tells of a round once all streams had a message in it.
    fn saw(&mut self, seen: Seen) {
        if let Some(stream) = self.by_stream.get_mut(seen.0) {
            stream.push(seen);
        }
        if self.least() > self.told {
            let round: Vec<&Seen> = self
                .by_stream
                .iter()
                .filter_map(|s| s.get(self.told))
                .collect();
            let times = || round.iter().map(|(_, at, _)| *at);
            let (first, last) = (
                times().min().unwrap_or_default(),
                times().max().unwrap_or_default(),
            );
            let bytes = round
                .iter()
                .map(|(_, _, bytes)| *bytes)
                .max()
                .unwrap_or_default();
            self.told += 1;
            println!("told {} {first} {last} {bytes}", self.told);
        }
    }

    fn count(&self) {
        let most = self
            .by_stream
            .iter()
            .map(Vec::len)
            .max()
            .unwrap_or_default();
        println!("count {} {most}", self.least());
    }
}

async fn raw(socket: &Path, count: usize, bytes: usize) {
    let mut sockets = Vec::new();
    for _ in 0..count {
        sockets.push(UnixStream::connect(socket).await.expect("a socket"));
    }
    drop(begin().await);
    let mut readers = tokio::task::JoinSet::new();
    for (number, mut socket) in sockets.into_iter().enumerate() {
        readers.spawn(async move {
            socket.read_exact(&mut vec![0; bytes]).await.expect("bytes");
            (number, nanos(), bytes)
        });
    }
    let mut rounds = Rounds::of(count);
    for seen in readers.join_all().await {
        rounds.saw(seen);
    }
}

/// The median and the slowest but one in a hundred, in nanoseconds.
async fn timed(count: usize, act: impl AsyncFn()) {
    drop(begin().await);
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        act().await;
        times.push(start.elapsed().as_nanos());
    }
    times.sort_unstable();
    let at = |part: usize| times.get(count * part / 100).copied().unwrap_or_default();
    println!("times {} {}", at(50), at(99));
}

async fn first(socket: &Path) {
    let mut client = WorkloadClient::connect(socket).await.expect("a connection");
    let mut answers = client.x509_svids().await.expect("a stream");
    answers
        .message()
        .await
        .expect("an answer")
        .expect("an answer");
}

async fn echo(socket: &Path) {
    let mut bytes = [0; ECHO_BYTES];
    let mut socket = UnixStream::connect(socket).await.expect("a connection");
    socket.write_all(&bytes).await.expect("a listener");
    socket.read_exact(&mut bytes).await.expect("an echo");
}
