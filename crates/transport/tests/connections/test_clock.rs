//! The clock that tests move.

use std::time::Duration;

use countersign_transport::Clock;
use countersign_transport::clock::{GRAIN, TestClock, until};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::stage::{HOUR, NOW};

#[tokio::test]
async fn it_moves_validity_and_timers_together_and_only_when_told() {
    let clock = TestClock::start(NOW);
    let begin = Instant::now();
    let timer = tokio::spawn(tokio::time::sleep(HOUR));
    // Real IO gives the runtime a reason to idle, which would make tokio's own paused time jump to the timer.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_client, _server) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    assert!(!timer.is_finished() && begin.elapsed().is_zero());

    clock.advance(HOUR).await;
    timer.await.unwrap();
    assert_eq!(
        (clock.now(), begin.elapsed()),
        (NOW.after(HOUR), HOUR + GRAIN)
    );
}

#[tokio::test]
async fn waiting_for_a_moment_follows_a_clock_that_is_set_back() {
    let clock = TestClock::start(NOW);
    let (moment, of) = (NOW.after(Duration::from_secs(20)), clock.clone());
    let waiting = tokio::spawn(async move { until(&of, moment).await });
    tokio::task::yield_now().await;
    clock.set(NOW.before(HOUR));
    tokio::time::advance(Duration::from_secs(25)).await;
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    clock.set(moment);
    tokio::time::advance(Duration::from_secs(31)).await;
    waiting.await.unwrap();
}
