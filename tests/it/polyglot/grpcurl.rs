//! grpcurl finds the services by reflection, describes them with their comments, calls them, and shows the details of
//! errors.

use serde_json::Value;
use uuid::Uuid;

use crate::support::client::grpcurl;
use crate::support::process::Process;

#[tokio::test]
#[ignore = "make test runs it"]
async fn sums() {
    let server = Process::serve(&[]).await;
    let ask = async |flags: &[&str], method: &str| grpcurl(&server.address, flags, method).await;

    let list = ask(&[], "list").await.out;
    for service in [
        "grpc.health.v1.Health",
        "sum.v1.ClusterService",
        "sum.v1.CounterService",
        "sum.v1.SumService",
    ] {
        assert!(list.contains(service), "{list}");
    }
    let healthy = ask(&[], "grpc.health.v1.Health/Check").await.out;
    assert!(healthy.contains("SERVING"), "{healthy}");
    let described = ask(&[], "describe sum.v1.SumService").await.out;
    let comment = "// Adds integers, exactly.";
    assert!(described.contains(comment), "{described}");

    let add = "sum.v1.SumService/Add";
    let sum = ask(&["-d", r#"{"values": [1, 2, 3]}"#], add).await;
    sum.printed("{\n  \"sum\": \"6\"\n}\n");

    let refused = ask(&["-d", r#"{"values": ["9223372036854775807", 1]}"#], add).await;
    assert_ne!(refused.code, Some(0));
    for part in ["OutOfRange", "SUM_OUT_OF_RANGE", "9223372036854775808"] {
        assert!(refused.err.contains(part), "{}", refused.err);
    }

    let messages = r#"{"values": [1]} {"values": [2, 3]}"#;
    let all = ask(&["-d", messages], "sum.v1.SumService/AddAll").await;
    assert_eq!(all.answers()[0]["count"], "3");
}

#[tokio::test]
#[ignore = "make test runs it"]
async fn counters() {
    let server = Process::serve(&[]).await;
    let ask = async |flags: &[&str], method: &str| grpcurl(&server.address, flags, method).await;

    let described = ask(&[], "describe sum.v1.CounterService").await.out;
    let comment = "// Keeps named running totals";
    assert!(described.contains(comment), "{described}");

    let increment = "sum.v1.CounterService/IncrementCounter";
    let five = r#"{"counter": "team/a", "delta": 5, "request_id": "order-1"}"#;
    let first = ask(&["-d", five], increment).await;
    let again = ask(&["-d", five], increment).await;
    let (first, again) = (&first.answers()[0], &again.answers()[0]);
    assert_eq!(first["value"], "5");
    assert_eq!(first["replayed"], Value::Null);
    assert_eq!(again["value"], "5");
    assert_eq!(again["replayed"], true);
    assert_eq!(first["revision"], again["revision"]);

    let six = r#"{"counter": "team/a", "delta": 6, "request_id": "order-1"}"#;
    let reused = ask(&["-d", six], increment).await;
    for part in ["AlreadyExists", "REQUEST_ID_REUSED", "NOT_APPLIED"] {
        assert!(reused.err.contains(part), "{}", reused.err);
    }

    let messages = format!(
        r#"{{"session_id": "{}", "sequence": 1, "increments": [{{"counter": "team/a", "delta": 1}}]}}
        {{"sequence": 2, "increments": [{{"counter": "team/b", "delta": 1, "max": 0}}]}}
        {{"sequence": 3, "increments": [{{"counter": "team/a", "delta": 1}}, {{"counter": "team/b", "delta": -2}}]}}"#,
        Uuid::now_v7(),
    );
    let record = "sum.v1.CounterService/RecordIncrements";
    // The second time, everything is already acknowledged.
    for _ in 0..2 {
        let recorded = ask(&["-d", &messages], record).await;
        let answers = recorded.answers();
        let last = answers.last().expect("an answer");
        assert_eq!(last["acknowledged"], "3", "{}", recorded.err);
        assert!(recorded.out.contains("LIMIT_REACHED"), "{}", recorded.out);
    }

    let watch = "sum.v1.CounterService/WatchCounters";
    let watched = ask(&["-max-time", "2", "-d", r#"{"prefix": "team/"}"#], watch).await;
    let state = &watched.answers()[0];
    assert_eq!(state["restarted"], true);
    assert_eq!(state["synced"], true);
    let counters = state["counters"].as_array().expect("counters").iter();
    let values: Vec<_> = counters
        .map(|counter| (counter["name"].as_str(), counter["value"].as_str()))
        .collect();
    let expected = [(Some("team/a"), Some("7")), (Some("team/b"), Some("-2"))];
    assert_eq!(values, expected);
    assert!(watched.err.contains("DeadlineExceeded"), "{}", watched.err);
}
