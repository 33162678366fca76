//! Counters in bulk.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::timeout;
use uuid::Uuid;

use super::server::{LONG, Server};
use crate::support::client::{client, end, run, start};

each_client!(records survives_crashes);

/// Each client increments in bulk, and reports the increment that fails. A repetition changes nothing.
async fn records(language: &str) {
    let server = Server::start().await;
    let at = server.address();
    // The first server does not exist, so all calls go to the other.
    let addresses = format!("127.0.0.1:1,{at}");
    let lines = (0_i64..3000).map(|i| match i {
        0 => format!("team/full {}\n", i64::MAX),
        1234 => "team/full 1\n".to_owned(),
        i => format!("team/with space {i}\nteam/{} -{i}\n", i % 3),
    });
    let input = lines.collect::<String>();
    let begun = SystemTime::now().duration_since(UNIX_EPOCH);
    let begun = begun.expect("it is after 1970").as_millis().to_string();
    let mut record = client(language);
    record.args(["record", &addresses, "bulk 1", &begun]);

    // Messages have 100 lines. The two lines with 1 to 1233 come before it, and the first line.
    let failed = "failed 25 67 OUT_OF_RANGE reason=COUNTER_OUT_OF_RANGE\n";
    let output = run(&mut record, &input).await;
    output.printed(&format!("{failed}acknowledged=60 failed=1\n"));
    // The server has forgotten the failure, since the client has declared that it knows it.
    let output = run(&mut record, &input).await;
    output.printed("acknowledged=60 failed=0\n");

    let names = ["team/full", "team/with space", "team/0", "team/1", "team/2"];
    let got = run(client(language).args(["get", at]).args(names), "").await;
    let by_rest = |rest| {
        -(1..3000)
            .filter(|i| *i != 1234 && i % 3 == rest)
            .sum::<i64>()
    };
    let all = -(by_rest(0) + by_rest(1) + by_rest(2));
    let expected = [i64::MAX, all, by_rest(0), by_rest(1), by_rest(2)];
    let expected: Vec<_> = names.into_iter().zip(expected).collect();
    assert_eq!(got.values(), expected);

    let mut record = client(language);
    record.args(["record", at, &Uuid::now_v7().to_string(), "0"]);
    let unreadable = run(&mut record, "team/a 1\nteam/a x\n").await;
    assert_eq!(
        (unreadable.code, &*unreadable.out),
        (Some(1), "acknowledged=0 failed=0\n")
    );
    let why = unreadable.err;
    assert!(why.starts_with("error: line 2: "), "{why}");
}

/// Two crashes of the server in the middle of a session lose nothing and count nothing twice.
async fn survives_crashes(language: &str) {
    const LINES: i64 = 200_000;
    let mut server = Server::start().await;
    let mut sums = BTreeMap::new();
    let mut lines = Vec::new();
    for i in 0..LINES {
        let (name, delta) = (format!("bulk/{}", i % 3), i % 7 - 2);
        lines.push(format!("{name} {delta}\n"));
        *sums.entry(name).or_insert(0) += delta;
    }
    let mut record = client(language);
    record.args(["record", server.address(), &Uuid::now_v7().to_string(), "0"]);
    let mut recording = start(&mut record, lines.concat());
    for part in [10, 3] {
        server.reaches("bulk/0", sums["bulk/0"] / part).await;
        let ended = recording.try_wait().expect("a child");
        assert_eq!(ended, None, "it was too fast to be hit");
        server.crash_and_restart().await;
    }
    let output = timeout(LONG, end(recording)).await;
    let output = output.expect("this should be over");
    output.printed(&format!("acknowledged={} failed=0\n", LINES / 100));
    for (name, sum) in sums {
        assert_eq!(server.value(&name).await, sum, "{name}");
    }
}
