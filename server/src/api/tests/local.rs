//! What only the server's own socket serves: health, the log's level, and what the server knows of itself.

use countersign_proto::grpc::health::v1 as health;
use countersign_proto::spire::api::server::debug::v1 as debug;
use countersign_proto::spire::api::server::debug::v1::debug_client::DebugClient;
use countersign_proto::spire::api::server::logger::v1 as logger;
use countersign_proto::spire::api::server::logger::v1::logger_client::LoggerClient;
use countersign_proto::spire::api::types::LogLevel;
use health::health_check_response::ServingStatus;

use super::*;

#[tokio::test]
async fn health_is_checked_for_the_server_as_a_whole() {
    let fixture = Fixture::new().await;
    let mut client = fixture.local().health();
    let check = |service: &str| health::HealthCheckRequest {
        service: service.into(),
    };
    let well = client.check(check("")).await.unwrap().into_inner();
    assert_eq!(well.status(), ServingStatus::Serving);
    let one = client.check(check("x")).await.unwrap_err();
    assert_eq!(
        (one.code(), one.message()),
        (Code::InvalidArgument, "per-service health is not supported")
    );
    let list = client.list(health::HealthListRequest {}).await;
    assert_eq!(list.unwrap_err().code(), Code::Unimplemented);
    let watch = client.watch(check("")).await;
    assert_eq!(watch.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn only_a_level_that_exists_is_set() {
    let fixture = Fixture::new().await;
    let mut client = LoggerClient::new(fixture.local());
    let told = client.get_logger(logger::GetLoggerRequest {}).await;
    let told = told.unwrap().into_inner();
    assert_eq!(
        (told.current_level(), told.launch_level()),
        (LogLevel::Info, LogLevel::Info)
    );
    let set = |new_level| logger::SetLogLevelRequest { new_level };
    for (level, why) in [
        (0, "newLevel value cannot be LogLevel_UNSPECIFIED"),
        (8, "unsupported log level"),
        (-1, "unsupported log level"),
    ] {
        let refused = client.set_log_level(set(level)).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::InvalidArgument, why)
        );
    }
    for level in 1..=7 {
        let told = client.set_log_level(set(level)).await.unwrap().into_inner();
        assert_eq!((told.current_level, told.launch_level), (level, 5));
    }
    let told = client
        .reset_log_level(logger::ResetLogLevelRequest {})
        .await;
    assert_eq!(told.unwrap().into_inner().current_level(), LogLevel::Info);
}

#[tokio::test(start_paused = true)]
async fn debug_info_is_cached_for_five_seconds() {
    let fixture = Fixture::new().await;
    // The service, and with it the answer that it remembers, is one per way in.
    let caller = fixture.local();
    let agents = async || {
        let mut client = DebugClient::new(caller.clone());
        let told = client.get_info(debug::GetInfoRequest {}).await;
        told.unwrap().into_inner().agents_count
    };
    assert_eq!(agents().await, 0);
    fixture.agent("a", &[]).await;
    tokio::time::advance(Duration::from_millis(4_900)).await;
    assert_eq!(agents().await, 0);
    tokio::time::advance(Duration::from_millis(200)).await;
    assert_eq!(agents().await, 1);
}
