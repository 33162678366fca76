//! Valid encodings, from which the fuzzer starts.

mod rows;

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use prost_types::Timestamp;
use serde_json::json;

use crate::model::fuzzing::hasher;
use crate::proto::sum::v1::{
    AddAllRequest, BatchIncrementCountersRequest, DeleteCounterRequest, Increment,
    IncrementCounterRequest, IncrementFailure, OnLimit, RecordIncrementsRequest,
    RecordIncrementsResponse, SetCounterRequest,
};
use crate::proto::sumd::cluster::v1::{
    self as peer, record_part_answer::Result as Of, refusal::Why,
};
use rows::{batches, rows, sessions};

/// A target, the name of the seed's file, and its bytes.
type Seed = (&'static str, &'static str, Vec<u8>);

const TIME: Option<Timestamp> = Some(Timestamp {
    seconds: 1_794_999_999,
    nanos: 5_000_000,
});
const UUID: &str = "019adc1b-7a00-7abc-8def-0123456789ab";

pub fn all() -> Vec<Seed> {
    let groups = [
        answers(),
        batches(),
        bulk(),
        frames(),
        nodes(),
        page_tokens(),
        parts(),
        requests(),
        rows(),
        sessions(),
        sums(),
    ];
    groups.into_iter().flatten().collect()
}

/// A first byte, which chooses a kind or gives a number, and the rest.
fn tagged(first: u8, rest: &[u8]) -> Vec<u8> {
    [&[first], rest].concat()
}

fn increment(counter: &str, delta: i64) -> Increment {
    Increment {
        counter: counter.to_owned(),
        delta,
        ..Increment::default()
    }
}

fn increments() -> Vec<Increment> {
    let limited = Increment {
        min: Some(-1),
        max: Some(i64::MAX),
        on_limit: OnLimit::Saturate.into(),
        ..increment("acme/seats", 3)
    };
    vec![
        increment("acme/calls", 1),
        increment("other/calls", i64::MIN),
        limited,
        increment("", 1),
    ]
}

fn answers() -> Vec<Seed> {
    let answer = |why| {
        let answer = peer::Answer {
            id: 7,
            result: None,
            refusal: Some(peer::Refusal { why: Some(why) }),
        };
        tagged(0, &answer.encode_to_vec())
    };
    let times = peer::Times {
        time: 1_794_000_000_000,
        bound: 1_794_900_000_000,
        now: Some(1_795_000_000_000),
    };
    let full = peer::Full {
        max_bytes: 1 << 30,
        retry_in_ms: 1500,
    };
    let failure = peer::Failure {
        index: 1,
        value: 5,
        delta: 6,
        limit: Some(peer::failure::Limit::Max(10)),
    };
    let status = tonic_types::Status {
        code: 9,
        message: "refused".to_owned(),
        details: Vec::new(),
    };
    let earlier = peer::Answer {
        result: Some(peer::answer::Result::Error(status.encode_to_vec().into())),
        ..peer::Answer::default()
    };
    let response = RecordIncrementsResponse {
        acknowledged: 5,
        revision: 1 << 20,
        window: 256,
        failures: vec![IncrementFailure {
            sequence: 5,
            index: 1,
            error: Some(status),
        }],
    };
    let part = |result, refusal| peer::RecordPartAnswer {
        result: Some(result),
        refusal,
    };
    let refused = peer::Refusal {
        why: Some(Why::Overtaken(3)),
    };
    let parts = peer::RecordPartsAnswer {
        answers: vec![
            part(Of::Ok(response.encode_to_vec().into()), None),
            part(Of::Error(Vec::new().into()), Some(refused)),
        ],
    };
    vec![
        ("answer", "plain", answer(Why::Plain(4))),
        ("answer", "too_old", answer(Why::TooOld(times))),
        ("answer", "from_future", answer(Why::FromFuture(times))),
        ("answer", "full", answer(Why::Full(full))),
        ("answer", "failure", answer(Why::Failure(failure))),
        ("answer", "gap", answer(Why::Gap(9))),
        (
            "answer",
            "earlier_version",
            tagged(0, &earlier.encode_to_vec()),
        ),
        ("answer", "parts", tagged(2, &parts.encode_to_vec())),
    ]
}

fn bulk() -> Vec<Seed> {
    let message = RecordIncrementsRequest {
        session_id: "meter-7".to_owned(),
        session_time: TIME,
        sequence: 3,
        acknowledged: 1,
        increments: increments(),
    };
    let hello = RecordIncrementsRequest {
        session_id: UUID.to_owned(),
        ..RecordIncrementsRequest::default()
    };
    let full = RecordIncrementsRequest {
        session_id: "full".to_owned(),
        sequence: 1,
        increments: vec![increment("a", 1); 1000],
        ..RecordIncrementsRequest::default()
    };
    // A field of a later version, a field that is sent twice, and a name that is not UTF-8.
    let mut odd = message.encode_to_vec();
    odd.extend([0x7a, 2, 7, 9, 0x18, 4, 0x2a, 4, 0x0a, 2, 0xff, 0xfe]);
    vec![
        ("bulk", "message", message.encode_to_vec()),
        ("bulk", "hello", hello.encode_to_vec()),
        ("bulk", "full", full.encode_to_vec()),
        ("bulk", "odd", odd),
    ]
}

/// The methods are `Add`, `AddAll`, `AddEach` and `RecordIncrements`, with messages that are compressed by nothing, gzip
/// or zstd. Messages of over 64 bytes are too large for a sum.
fn frames() -> Vec<Seed> {
    let framed = |flag, bytes: Vec<u8>| {
        let length = u8::try_from(bytes.len()).expect("a short message");
        [&[flag, 0, 0, 0, length][..], &bytes].concat()
    };
    let message = |bytes: u8| framed(0, vec![7; bytes.into()]);
    let zstd = |bytes: &[u8]| framed(1, zstd::encode_all(bytes, 1).expect("memory"));
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("memory");
        framed(1, encoder.finish().expect("memory"))
    };
    let values = [0x08, 7].repeat(9);
    let body = |kind, messages: &[Vec<u8>]| [&[kind, 3, 9][..], &messages.concat()].concat();
    let of = |name, bytes| ("frames", name, bytes);
    vec![
        of("one", body(0, &[message(5)])),
        of("two", body(0, &[message(5), message(0)])),
        of("cut", body(1, &[message(5), message(9)[..8].to_vec()])),
        of("large", body(2, &[message(5), message(65), message(1)])),
        of("compressed", body(2, &[framed(1, vec![9]), message(1)])),
        of("bad_prefix", body(2, &[message(1), framed(2, vec![9])])),
        of("held", body(3, &[message(5), message(9)])),
        of("summed", body(1, &[framed(0, values.clone()), message(3)])),
        of("gzip", body(4 + 1, &[gzip(&values), message(1)])),
        of("gzip_held", body(4 + 3, &[gzip(&values), message(1)])),
        of("zstd", body(8 + 2, &[zstd(&values), message(1)])),
        of("zstd_held", body(8 + 3, &[zstd(&values), message(1)])),
        of("zstd_large", body(8 + 2, &[zstd(&[7; 65]), zstd(&values)])),
        of(
            "zstd_broken",
            body(8 + 2, &[framed(1, vec![9]), message(1)]),
        ),
    ]
}

fn nodes() -> Vec<Seed> {
    let earlier = json!({
        "Op": 0,
        "Addr": "sumd-0.example:8080",
        "Metadata": null,
        "Node": {
            "id": "sumd-0",
            "version": "0.1.0",
            "protocol": 1,
            "started": "2026-11-18T11:06:40.5Z",
            "draining": false,
        },
    });
    let mut node = earlier.clone();
    node["Node"]["format"] = 4.into();
    node["Node"]["clock"] = "off".into();
    vec![
        ("node", "node", node.to_string().into()),
        ("node", "earlier_version", earlier.to_string().into()),
    ]
}

fn page_tokens() -> Vec<Seed> {
    let (prefix, last) = ("acme/", "acme/calls");
    let digest = hasher().check(&[prefix.as_bytes(), last.as_bytes()]);
    let token = URL_SAFE_NO_PAD.encode([&digest.to_le_bytes(), last.as_bytes()].concat());
    vec![
        ("page_token", "token", format!("{prefix}\n{token}").into()),
        ("page_token", "name", format!("{prefix}\n{last}").into()),
    ]
}

/// A group of a lane, out of the four of the targets.
fn group(lane: u32) -> String {
    let groups = (0..).map(|number| format!("g{number}"));
    let mut of_lane = groups.filter(|group| hasher().lane(group, 4) == lane);
    of_lane.next().expect("some group is in each lane")
}

fn parts() -> Vec<Seed> {
    let (one, other) = (group(1), group(2));
    let part = |lane, indices: &[u32]| peer::RecordPart {
        lane,
        previous: Some(1),
        indices: indices.to_vec(),
        ..peer::RecordPart::default()
    };
    let call = |increments, parts: Vec<_>| {
        let message = RecordIncrementsRequest {
            session_id: "meter-7".to_owned(),
            session_time: TIME,
            sequence: 2,
            acknowledged: 1,
            increments,
        };
        let call = peer::RecordParts {
            message: message.encode_to_vec().into(),
            count: 2,
            parts,
            above: Some(0),
            whole: 1,
        };
        call.encode_to_vec()
    };
    let all = vec![
        increment(&format!("{one}/a"), 1),
        increment(&format!("{one}/b"), i64::MAX),
        increment(&format!("{other}/a"), -1),
    ];
    let whole = call(all[..2].to_vec(), vec![part(1, &[])]);
    let two = call(all, vec![part(1, &[0, 3]), part(2, &[1])]);
    vec![("parts", "one", whole), ("parts", "two", two)]
}

fn requests() -> Vec<Seed> {
    let one = IncrementCounterRequest {
        counter: "acme/calls".to_owned(),
        delta: 5,
        request_id: "order-1".to_owned(),
        request_time: TIME,
        max: Some(10),
        on_limit: OnLimit::Saturate.into(),
        ..IncrementCounterRequest::default()
    };
    let batch = BatchIncrementCountersRequest {
        increments: vec![increment("acme/a", 1), increment("acme/b", -1)],
        request_id: UUID.to_owned(),
        ..BatchIncrementCountersRequest::default()
    };
    let set = SetCounterRequest {
        counter: "acme/calls".to_owned(),
        value: -7,
        request_id: UUID.to_owned(),
        ..SetCounterRequest::default()
    };
    let delete = DeleteCounterRequest {
        counter: "acme/calls".to_owned(),
        request_id: "order-2".to_owned(),
        ..DeleteCounterRequest::default()
    };
    vec![
        ("request", "increment", tagged(0, &one.encode_to_vec())),
        ("request", "batch", tagged(1, &batch.encode_to_vec())),
        ("request", "set", tagged(2, &set.encode_to_vec())),
        ("request", "delete", tagged(3, &delete.encode_to_vec())),
    ]
}

fn sums() -> Vec<Seed> {
    let values = [0, 1, -1, 300, i64::MAX, i64::MIN, 1 << 40];
    let message = AddAllRequest {
        values: values.to_vec(),
    };
    let message = message.encode_to_vec();
    // Varints of a byte each take a path of their own, beyond some length.
    let small: Vec<u8> = (0..100).collect();
    vec![
        ("sum", "message", [&[0, 9, 0][..], &message].concat()),
        ("sum", "packed", [&[1, 40, 0][..], &small].concat()),
    ]
}
