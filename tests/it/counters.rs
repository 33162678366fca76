//! `CounterService`, method by method.

mod bulk;
mod hostile;
pub mod watch;

use std::time::{Duration, SystemTime};

use sumd::proto::sum::v1::counter_service_client::CounterServiceClient;
use sumd::proto::sum::v1::{
    BatchGetCountersRequest, BatchIncrementCountersRequest, Counter, DeleteCounterRequest,
    GetCounterRequest, Increment, IncrementCounterRequest, IncrementCounterResponse,
    ListCountersRequest, OnLimit, SetCounterRequest, SumCountersRequest,
};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::process::Process;
use crate::support::{TestServer, reason, soon, uuid_v7};

pub type Client = CounterServiceClient<Channel>;

async fn serve() -> (TestServer, Client) {
    let server = TestServer::start(&[]).await;
    let client = Client::new(server.channel().await);
    (server, client)
}

fn request(counter: &str, delta: i64) -> IncrementCounterRequest {
    IncrementCounterRequest {
        counter: counter.into(),
        delta,
        ..IncrementCounterRequest::default()
    }
}

fn request_as(id: &str, counter: &str, delta: i64) -> IncrementCounterRequest {
    IncrementCounterRequest {
        request_id: id.into(),
        ..request(counter, delta)
    }
}

async fn try_increment(
    client: &mut Client,
    request: IncrementCounterRequest,
) -> Result<IncrementCounterResponse, Status> {
    let answer = soon(client.increment_counter(request)).await;
    answer.map(tonic::Response::into_inner)
}

async fn increment(client: &mut Client, counter: &str, delta: i64) -> IncrementCounterResponse {
    let answer = try_increment(client, request(counter, delta)).await;
    answer.expect("nothing is wrong with it")
}

async fn get(client: &mut Client, counter: &str) -> Counter {
    let request = GetCounterRequest {
        counter: counter.into(),
        ..GetCounterRequest::default()
    };
    let answer = soon(client.get_counter(request)).await.expect("an answer");
    answer.into_inner().counter.expect("a counter")
}

/// Checks that an error has the expected code and changed nothing, and returns its reason.
fn refused(status: &Status, code: Code) -> String {
    assert_eq!(status.code(), code, "{status:?}");
    let (reason, metadata) = reason(status);
    assert_eq!(metadata["outcome"], "NOT_APPLIED", "{reason}");
    reason
}

#[tokio::test]
async fn increments_answer_the_value_right_after_them() {
    let (_server, mut client) = serve().await;
    let mut revision = 0;
    for (delta, value) in [(5, 5), (-7, -2), (0, -2), (i64::MAX, i64::MAX - 2)] {
        let answer = increment(&mut client, "acme/a", delta).await;
        assert_eq!((answer.value, answer.applied), (value, delta));
        assert!(!answer.replayed);
        assert!(answer.revision > revision, "revisions grow");
        revision = answer.revision;
    }
    let counter = get(&mut client, "acme/a").await;
    assert_eq!((counter.value, counter.revision), (i64::MAX - 2, revision));
    let never = get(&mut client, "acme/never").await;
    assert_eq!((never.value, never.revision), (0, 0));
}

#[tokio::test]
async fn limits_reject_or_saturate() {
    let (_server, mut client) = serve().await;
    let limited = |delta, on_limit: OnLimit| IncrementCounterRequest {
        min: Some(-10),
        max: Some(10),
        on_limit: on_limit.into(),
        ..request("quota", delta)
    };
    let mut ask =
        async |delta, on_limit| try_increment(&mut client, limited(delta, on_limit)).await;
    assert_eq!(
        ask(8, OnLimit::Unspecified).await.expect("it fits").value,
        8
    );

    let over = ask(3, OnLimit::Reject).await.expect_err("11 is over");
    assert_eq!(refused(&over, Code::FailedPrecondition), "LIMIT_REACHED");
    let (_, metadata) = reason(&over);
    for (key, value) in [
        ("counter", "quota"),
        ("value", "8"),
        ("delta", "3"),
        ("max", "10"),
    ] {
        assert_eq!(metadata[key], value);
    }
    let under = ask(-19, OnLimit::Reject).await.expect_err("-11 is under");
    assert_eq!(reason(&under).1["min"], "-10");

    let some = ask(3, OnLimit::Saturate).await.expect("two of them");
    assert_eq!((some.value, some.applied), (10, 2));
    let none = ask(1, OnLimit::Saturate).await.expect("none of it");
    assert_eq!((none.value, none.applied), (10, 0));

    let beyond = increment(&mut client, "big", i64::MAX).await.value;
    let wraps = try_increment(&mut client, request("big", 1)).await;
    let wraps = wraps.expect_err("nothing wraps");
    assert_eq!(refused(&wraps, Code::OutOfRange), "COUNTER_OUT_OF_RANGE");
    assert_eq!(get(&mut client, "big").await.value, beyond);
}

#[tokio::test]
async fn what_is_wrong_is_said_field_by_field() {
    let (_server, mut client) = serve().await;
    let wrong = IncrementCounterRequest {
        request_id: "x".repeat(129),
        min: Some(2),
        max: Some(1),
        ..request("a//b", 1)
    };
    let status = try_increment(&mut client, wrong)
        .await
        .expect_err("all wrong");
    assert_eq!(refused(&status, Code::InvalidArgument), "INVALID_ARGUMENT");
    let violations = status.get_details_bad_request().expect("details");
    let fields: Vec<_> = violations
        .field_violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect();
    assert_eq!(fields, ["counter", "min", "request_id"]);

    for name in ["", "/a", "a/", "a\u{0}b", "a\u{7f}", &"x".repeat(257)] {
        let status = try_increment(&mut client, request(name, 1)).await;
        let status = status.expect_err("it is no name");
        assert_eq!(refused(&status, Code::InvalidArgument), "INVALID_ARGUMENT");
    }
    let on_limit = IncrementCounterRequest {
        on_limit: 9,
        ..request("a", 1)
    };
    let status = try_increment(&mut client, on_limit)
        .await
        .expect_err("9 is none");
    refused(&status, Code::InvalidArgument);
    assert_eq!(
        get(&mut client, "a").await.revision,
        0,
        "nothing was changed"
    );
}

#[tokio::test]
async fn an_id_is_counted_once() {
    let (_server, mut client) = serve().await;
    let first = try_increment(&mut client, request_as("1", "acme/a", 5)).await;
    let first = first.expect("an answer");
    increment(&mut client, "acme/a", 1).await;
    for _ in 0..3 {
        let again = try_increment(&mut client, request_as("1", "acme/a", 5)).await;
        let again = again.expect("the first answer");
        assert!(again.replayed);
        assert_eq!((again.value, again.revision), (first.value, first.revision));
    }
    for other in [
        request_as("1", "acme/a", 6),
        request_as("1", "acme/b", 5),
        IncrementCounterRequest {
            max: Some(9),
            ..request_as("1", "acme/a", 5)
        },
    ] {
        let status = try_increment(&mut client, other)
            .await
            .expect_err("other contents");
        assert_eq!(refused(&status, Code::AlreadyExists), "REQUEST_ID_REUSED");
    }
    let elsewhere = try_increment(&mut client, request_as("1", "other/a", 6)).await;
    assert!(!elsewhere.expect("another group").replayed);
    assert_eq!(get(&mut client, "acme/a").await.value, 6);
}

/// A refusal by a limit is replayed like any other answer, even after the counter has changed.
#[tokio::test]
async fn a_refusal_is_replayed_too() {
    let (_server, mut client) = serve().await;
    increment(&mut client, "a", 10).await;
    let limited = || IncrementCounterRequest {
        max: Some(10),
        ..request_as("id", "a", 1)
    };
    let first = try_increment(&mut client, limited()).await.expect_err("11");
    increment(&mut client, "a", -5).await;
    let again = try_increment(&mut client, limited())
        .await
        .expect_err("still");
    assert_eq!(reason(&first).1, reason(&again).1);
    assert_eq!(get(&mut client, "a").await.value, 5);
}

#[tokio::test]
async fn ids_that_are_too_old_or_too_new_are_refused() {
    let (_server, mut client) = serve().await;
    let now = SystemTime::now();
    let old = uuid_v7(now - Duration::from_mins(11));
    let status = try_increment(&mut client, request_as(&old, "a", 1)).await;
    let status = status.expect_err("the horizon is ten minutes");
    assert_eq!(
        refused(&status, Code::FailedPrecondition),
        "REQUEST_TOO_OLD"
    );

    let mut with_time = request_as("plain", "a", 1);
    with_time.request_time = Some((now - Duration::from_mins(11)).into());
    let status = try_increment(&mut client, with_time.clone()).await;
    let status = status.expect_err("a time beside the id counts as well");
    assert_eq!(
        refused(&status, Code::FailedPrecondition),
        "REQUEST_TOO_OLD"
    );

    with_time.request_time = Some((now + Duration::from_mins(2)).into());
    let status = try_increment(&mut client, with_time)
        .await
        .expect_err("too new");
    assert_eq!(
        refused(&status, Code::FailedPrecondition),
        "REQUEST_FROM_FUTURE"
    );

    let fresh = uuid_v7(now);
    let answer = try_increment(&mut client, request_as(&fresh, "a", 1)).await;
    assert_eq!(answer.expect("it is fresh").value, 1);
}

/// A request with a time but without an id is refused: its client has forgotten the id, and a repeat would count twice.
#[tokio::test]
async fn a_time_without_an_id_is_refused() {
    let (_server, mut client) = serve().await;
    let time = Some(SystemTime::now().into());
    let increment = IncrementCounterRequest {
        request_time: time,
        ..request_as("", "a", 1)
    };
    let batch = BatchIncrementCountersRequest {
        increments: vec![Increment {
            counter: "a".into(),
            delta: 1,
            ..Increment::default()
        }],
        request_time: time,
        ..BatchIncrementCountersRequest::default()
    };
    let set = SetCounterRequest {
        counter: "a".into(),
        request_time: time,
        ..SetCounterRequest::default()
    };
    let delete = DeleteCounterRequest {
        counter: "a".into(),
        request_time: time,
        ..DeleteCounterRequest::default()
    };
    for refused in [
        client.increment_counter(increment).await.err(),
        client.batch_increment_counters(batch).await.err(),
        client.set_counter(set).await.err(),
        client.delete_counter(delete).await.err(),
    ] {
        let status = refused.expect("the time is of no id");
        assert_eq!(
            self::refused(&status, Code::InvalidArgument),
            "INVALID_ARGUMENT"
        );
        let violations = status.get_details_bad_request().expect("a BadRequest");
        let fields = violations.field_violations.iter();
        let fields: Vec<_> = fields.map(|violation| &*violation.field).collect();
        assert_eq!(fields, ["request_time"]);
    }
}

#[tokio::test]
async fn batches_are_all_or_nothing() {
    let (_server, mut client) = serve().await;
    let batch = |id: &str, increments: &[(&str, i64)]| BatchIncrementCountersRequest {
        increments: increments
            .iter()
            .map(|(counter, delta)| Increment {
                counter: (*counter).into(),
                delta: *delta,
                max: Some(10),
                ..Increment::default()
            })
            .collect(),
        request_id: id.into(),
        request_time: None,
    };
    let mut ask = async |request| soon(client.batch_increment_counters(request)).await;
    let first = [("g/a", 3), ("g/b", 4), ("g/a", 5)];
    let answer = ask(batch("1", &first))
        .await
        .expect("they fit")
        .into_inner();
    let values: Vec<_> = answer.results.iter().map(|result| result.value).collect();
    assert_eq!(values, [3, 4, 8], "each upon the one before");

    let again = ask(batch("1", &first)).await.expect("the first answer");
    assert!(again.get_ref().replayed);
    assert_eq!(again.into_inner().results, answer.results);

    let over = ask(batch("2", &[("g/b", 1), ("g/a", 3)])).await;
    let over = over.expect_err("11 is over");
    assert_eq!(refused(&over, Code::FailedPrecondition), "LIMIT_REACHED");
    let (_, metadata) = reason(&over);
    assert_eq!((&*metadata["index"], &*metadata["counter"]), ("1", "g/a"));

    let groups = ask(batch("3", &[("g/a", 1), ("h/a", 1)])).await;
    refused(&groups.expect_err("two groups"), Code::InvalidArgument);
    refused(
        &ask(batch("4", &[])).await.expect_err("none"),
        Code::InvalidArgument,
    );
    let many = vec![("g/a", 0); 101];
    refused(
        &ask(batch("5", &many)).await.expect_err("101"),
        Code::InvalidArgument,
    );
    assert_eq!(get(&mut client, "g/a").await.value, 8);
    assert_eq!(get(&mut client, "g/b").await.value, 4);
}

#[tokio::test]
async fn counters_are_set_and_deleted_once() {
    let (_server, mut client) = serve().await;
    increment(&mut client, "a", 5).await;
    let set = SetCounterRequest {
        counter: "a".into(),
        value: -3,
        request_id: "set".into(),
        request_time: None,
    };
    for replayed in [false, true] {
        let answer = soon(client.set_counter(set.clone())).await.expect("set");
        let answer = answer.into_inner();
        assert_eq!((answer.previous_value, answer.replayed), (5, replayed));
    }
    let delete = DeleteCounterRequest {
        counter: "a".into(),
        request_id: "delete".into(),
        request_time: None,
    };
    for replayed in [false, true] {
        let answer = soon(client.delete_counter(delete.clone())).await;
        let answer = answer.expect("deleted").into_inner();
        assert_eq!((answer.previous_value, answer.replayed), (-3, replayed));
    }
    assert_eq!(
        get(&mut client, "a").await,
        Counter {
            name: "a".into(),
            ..Counter::default()
        }
    );
    assert_eq!(increment(&mut client, "a", 1).await.value, 1);
}

#[tokio::test]
async fn several_counters_are_read_at_one_moment() {
    let (_server, mut client) = serve().await;
    increment(&mut client, "g/a", 1).await;
    increment(&mut client, "g/b", 2).await;
    let names = |names: &[&str]| BatchGetCountersRequest {
        counters: names.iter().map(|name| (*name).to_owned()).collect(),
        ..BatchGetCountersRequest::default()
    };
    let answer = soon(client.batch_get_counters(names(&["g/b", "g/x", "g/a", "g/b"]))).await;
    let counters = answer.expect("counters").into_inner().counters;
    let values: Vec<_> = counters.iter().map(|counter| counter.value).collect();
    assert_eq!(values, [2, 0, 1, 2]);
    let status = soon(client.batch_get_counters(names(&[]))).await;
    assert_eq!(status.expect_err("none").code(), Code::InvalidArgument);
}

/// A counter that exists throughout is listed once, whatever is created, changed and deleted meanwhile.
#[tokio::test]
async fn lists_are_stable_under_writes() {
    let (_server, mut client) = serve().await;
    for i in 0..25 {
        increment(&mut client, &format!("p/{i:02}"), i).await;
    }
    increment(&mut client, "q", 1).await;
    let mut names = Vec::new();
    let mut page_token = String::new();
    let mut page = 0;
    loop {
        let request = ListCountersRequest {
            prefix: "p/".into(),
            page_size: 10,
            page_token: page_token.clone(),
        };
        let answer = soon(client.list_counters(request)).await.expect("a page");
        let answer = answer.into_inner();
        names.extend(answer.counters.into_iter().map(|counter| counter.name));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
        page += 1;
        increment(&mut client, &format!("p/0{page}x"), 1).await;
        increment(&mut client, "p/24", 1).await;
    }
    let expected: Vec<_> = (0..25).map(|i| format!("p/{i:02}")).collect();
    assert_eq!(names, expected);

    let mut wrong = ListCountersRequest {
        prefix: "q".into(),
        page_size: 1,
        page_token: "AAAA".into(),
    };
    let status = soon(client.list_counters(wrong.clone())).await;
    refused(
        &status.expect_err("no token of ours"),
        Code::InvalidArgument,
    );
    wrong.page_token.clear();
    wrong.page_size = -1;
    let status = soon(client.list_counters(wrong)).await;
    refused(&status.expect_err("below 0"), Code::InvalidArgument);
}

#[tokio::test]
async fn sums_are_exact_or_refused() {
    let (_server, mut client) = serve().await;
    for (name, delta) in [
        ("a/x", i64::MAX),
        ("a/y", i64::MAX),
        ("a/z", -i64::MAX),
        ("b", 1),
    ] {
        increment(&mut client, name, delta).await;
    }
    let mut sum = async |prefix: &str| {
        let prefix = prefix.to_owned();
        let answer = soon(client.sum_counters(SumCountersRequest { prefix })).await;
        answer.map(|answer| (answer.get_ref().sum, answer.get_ref().count))
    };
    assert_eq!(sum("a/").await.expect("it fits in the end"), (i64::MAX, 3));
    assert_eq!(sum("none").await.expect("nothing"), (0, 0));
    let over = sum("").await.expect_err("one more than fits");
    assert_eq!(over.code(), Code::OutOfRange);
    assert_eq!(reason(&over).1["sum"], (1i128 << 63).to_string());
}

/// After a restart on the same data, values, revisions and ids continue.
#[tokio::test]
async fn nothing_is_lost_by_a_kill() {
    let data = tempfile::tempdir().expect("a folder");
    let flags = ["--data-dir", data.path().to_str().expect("a path")];
    let mut server = Process::serve(&flags).await;
    let client = async |server: &Process| {
        let address = format!("http://{}", server.address);
        Client::connect(address).await.expect("it listens")
    };
    let mut before = client(&server).await;
    let first = try_increment(&mut before, request_as("1", "a", 5)).await;
    let first = first.expect("an answer");
    server.signal("KILL");
    server.exit().await;

    let server = Process::serve(&flags).await;
    let mut after = client(&server).await;
    let again = try_increment(&mut after, request_as("1", "a", 5)).await;
    let again = again.expect("an answer");
    assert_eq!(
        again,
        IncrementCounterResponse {
            replayed: true,
            ..first
        }
    );
    let next = increment(&mut after, "a", 1).await;
    assert_eq!(next.value, 6);
    assert!(next.revision > first.revision);
}
