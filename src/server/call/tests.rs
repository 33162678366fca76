//! What every call is held to, with handlers that misbehave.

use std::future::pending;

use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;

/// Bounds in a server that goes on.
fn bounds(deadline: Option<Instant>) -> Bounds<'static> {
    Bounds {
        deadline,
        shutdown: Box::leak(Box::default()),
    }
}

/// A panic is its own call's INTERNAL error, and says nothing of the server's inside.
#[tokio::test]
async fn a_panic_is_internal() {
    let status = bounds(None)
        .run(async { panic!("the secret is 42") })
        .await
        .map(|(): ()| ())
        .unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(!status.message().contains("42"));
}

/// The deadline ends a handler that goes on, and not one that is through.
#[tokio::test(start_paused = true)]
async fn the_deadline_ends_a_call() {
    let soon = || bounds(Some(Instant::now() + Duration::from_secs(1)));
    let status = soon().run(pending::<()>()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(soon().run(async { 7 }).await.ok(), Some(7));
}

/// Shutdown ends it likewise, and says that another server will do.
#[tokio::test]
async fn shutdown_ends_a_call() {
    let bounds = bounds(None);
    bounds.shutdown.cancel();
    let status = bounds.run(pending::<()>()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_details_retry_info().is_some());
}

/// A permit is given back when its call ends, however it ends.
#[test]
fn permits_are_given_back() {
    let calls = Calls::new(2);
    let (first, _second) = (calls.admit().unwrap(), calls.admit().unwrap());
    assert_eq!(calls.admit().unwrap_err().code(), Code::Unavailable);
    assert_eq!(calls.admit().unwrap_err().code(), Code::Unavailable);
    drop(first);
    let _third = calls.admit().unwrap();
    assert!(calls.admit().is_err());
}

/// `grpc-timeout` as the protocol defines it, and nothing else.
#[test]
fn timeouts_are_parsed() {
    for (text, timeout) in [
        ("1H", Duration::from_hours(1)),
        ("2M", Duration::from_mins(2)),
        ("3S", Duration::from_secs(3)),
        ("4m", Duration::from_millis(4)),
        ("5u", Duration::from_micros(5)),
        ("6n", Duration::from_nanos(6)),
        ("0n", Duration::ZERO),
        ("99999999H", Duration::from_hours(99_999_999)),
    ] {
        assert_eq!(parse_timeout(text.as_bytes()), Some(timeout), "{text}");
    }
    for text in [
        "",
        "S",
        "1",
        "1s",
        "-1S",
        "+1S",
        "1.5S",
        "123456789S",
        "1 S",
        "١S",
    ] {
        assert_eq!(parse_timeout(text.as_bytes()), None, "{text}");
    }
}
