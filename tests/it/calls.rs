//! The answers of each method, and the code of each error.

use http::{Method, Request, StatusCode};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use sumd::proto::sum::v1::add_each_response::Result::{Error, Sum};
use sumd::proto::sum::v1::counter_service_client::CounterServiceClient;
use sumd::proto::sum::v1::sum_service_client::SumServiceClient;
use sumd::proto::sum::v1::{
    AddAllRequest, AddAllResponse, AddEachRequest, AddEachResponse, AddRequest, AddResponse,
    BatchIncrementCountersRequest, GetCounterRequest, Increment, IncrementCounterRequest,
    ListCountersRequest, RecordIncrementsRequest, WatchCountersRequest,
};
use tokio_stream::{StreamExt as _, iter, wrappers::ReceiverStream};
use tonic::codec::CompressionEncoding;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::raw::{self, framed, messages};
use crate::support::{TestServer, add_request, reason, soon};

const TWO_63: &str = "9223372036854775808";

/// Sums are exact up to the limits of int64, in any order, and if an intermediate sum exceeds them.
#[tokio::test]
async fn add_is_exact() {
    let server = TestServer::start(&[]).await;
    let mut client = server.client().await;
    for (values, sum) in [
        (vec![], 0),
        (vec![0], 0),
        (vec![1, 2, 3], 6),
        (vec![-5, 2], -3),
        (vec![i64::MAX, i64::MAX, i64::MIN, i64::MIN, 2], 0),
        (vec![i64::MAX, i64::MIN], -1),
        (vec![i64::MIN], i64::MIN),
        (vec![i64::MAX - 1, 1], i64::MAX),
        (vec![7; 1_000_000], 7_000_000),
    ] {
        let request = sumd::proto::sum::v1::AddRequest { values };
        assert_eq!(client.add(request).await.unwrap().into_inner().sum, sum);
    }
}

/// Each method refuses a sum outside int64, and reports the sum.
#[tokio::test]
async fn a_sum_out_of_range_is_told() {
    let server = TestServer::start(&[]).await;
    let mut client = server.client().await;
    let check = |status: &Status| {
        assert_eq!(status.code(), Code::OutOfRange);
        assert!(status.message().contains(TWO_63), "{}", status.message());
        let (reason, metadata) = reason(status);
        assert_eq!(reason, "SUM_OUT_OF_RANGE");
        assert_eq!(metadata["sum"], TWO_63);
        assert_eq!(metadata["min"], i64::MIN.to_string());
        assert_eq!(metadata["max"], i64::MAX.to_string());
    };
    check(&client.add(add_request([i64::MAX, 1])).await.unwrap_err());

    let parts = [vec![i64::MAX], vec![1]].map(|values| AddAllRequest { values });
    check(&client.add_all(iter(parts)).await.unwrap_err());

    let each = AddEachRequest {
        values: vec![i64::MAX, 1],
    };
    let mut answers = client.add_each(iter([each])).await.unwrap().into_inner();
    let Some(Error(item)) = answers.next().await.unwrap().unwrap().result else {
        panic!("a sum");
    };
    let details = prost::Message::encode_to_vec(&item);
    check(&Status::with_details(
        item.code.into(),
        item.message,
        details.into(),
    ));
    assert!(answers.next().await.is_none(), "the stream ended well");
}

/// The sum does not depend on the encoding of the values, nor on other fields in the message.
#[tokio::test]
async fn every_encoding_has_the_same_sum() {
    let packed = [0x0a, 3, 1, 2, 3].as_slice();
    let single = [0x08, 1, 0x08, 2, 0x08, 3].as_slice();
    let mixed = [0x08, 1, 0x0a, 2, 2, 3].as_slice();
    let empty_runs = [0x0a, 0, 0x0a, 3, 1, 2, 3, 0x0a, 0].as_slice();
    let mut unknown = vec![0x12, 2, 9, 9, 0x0a, 3, 1, 2, 3, 0x1b, 0x08, 5, 0x1c];
    encode_key(4, WireType::Varint, &mut unknown);
    encode_varint(u64::MAX, &mut unknown);

    let server = TestServer::start(&[]).await;
    let mut raw = server.raw().await;
    for message in [packed, single, mixed, empty_runs, &unknown] {
        let answer = raw.exchange("Add", framed(message)).await;
        assert_eq!(answer.status.code(), Code::Ok, "{message:x?}");
        let sums: Vec<AddResponse> = messages(answer.body);
        assert_eq!(sums, [AddResponse { sum: 6 }], "{message:x?}");
    }
}

/// AddAll returns one sum over a stream of any length, with the number of values in it.
#[tokio::test]
async fn add_all_adds_over_messages() {
    let server = TestServer::start(&[]).await;
    let mut client = server.client().await;
    let sum = async |client: &mut sumd::proto::sum::v1::sum_service_client::SumServiceClient<_>,
                     messages: Vec<Vec<i64>>| {
        let messages = messages.into_iter().map(|values| AddAllRequest { values });
        let answer: AddAllResponse = soon(client.add_all(iter(messages.collect::<Vec<_>>())))
            .await
            .unwrap()
            .into_inner();
        (answer.sum, answer.count)
    };
    assert_eq!(sum(&mut client, vec![]).await, (0, 0));
    assert_eq!(sum(&mut client, vec![vec![], vec![]]).await, (0, 0));
    assert_eq!(
        sum(&mut client, vec![vec![1, 2], vec![], vec![-9]]).await,
        (-6, 3)
    );
    let excess = vec![vec![i64::MAX; 5], vec![i64::MIN; 5], vec![5]];
    assert_eq!(sum(&mut client, excess).await, (0, 11));
    assert_eq!(
        sum(&mut client, vec![vec![3; 100_000]; 50]).await,
        (15_000_000, 5_000_000)
    );
}

/// AddEach answers each message, in order, while the stream is open; a message that fails affects no other.
#[tokio::test]
async fn add_each_answers_each() {
    let server = TestServer::start(&[]).await;
    let mut client = server.client().await;

    // Answers come before the stream is closed.
    let (requests, stream) = tokio::sync::mpsc::channel(1);
    let send = |values| requests.send(AddEachRequest { values });
    send(vec![1, 2]).await.unwrap();
    let stream = ReceiverStream::new(stream);
    let mut answers = soon(client.add_each(stream)).await.unwrap().into_inner();
    let next = soon(answers.next()).await.unwrap().unwrap();
    assert_eq!(next.result, Some(Sum(3)));
    send(vec![-4]).await.unwrap();
    assert_eq!(
        soon(answers.next()).await.unwrap().unwrap().result,
        Some(Sum(-4))
    );
    drop(requests);
    assert!(soon(answers.next()).await.is_none());

    // Many messages at once.
    let many = (0..10_000).map(|i| AddEachRequest { values: vec![i, 1] });
    let many = iter(many.collect::<Vec<_>>());
    let answers = client.add_each(many).await.unwrap().into_inner();
    let sums: Vec<_> = soon(
        answers
            .map(|answer| answer.unwrap().result)
            .collect::<Vec<_>>(),
    )
    .await;
    assert_eq!(sums, (1..=10_000).map(|i| Some(Sum(i))).collect::<Vec<_>>());
}

/// Each kind of invalid message becomes an error of its item, with the code that Add would return.
#[tokio::test]
async fn add_each_goes_on_after_an_error() {
    let server = TestServer::start(&["--max-message-size", "100"]).await;
    let mut raw = server.raw().await;
    let compressed = [&[1, 0, 0, 0, 3], &[9, 9, 9][..]].concat();
    let body = [
        &framed(&[0x0a, 1, 1])[..],
        &framed(&[0x0a, 200, 1]),
        &framed(&[0x0a, 2, 0x80]),
        &framed(&[0; 101]),
        &compressed,
        &framed(&[]),
        &framed(&[0x0a, 1, 2]),
    ]
    .concat();
    let answer = raw.exchange("AddEach", body).await;
    assert_eq!(answer.status.code(), Code::Ok);
    let codes: Vec<_> = messages::<AddEachResponse>(answer.body)
        .into_iter()
        .map(|answer| match answer.result.expect("a result") {
            Sum(sum) => Ok(sum),
            Error(status) => {
                assert!(!status.details.is_empty());
                Err(Code::from(status.code))
            }
        })
        .collect();
    assert_eq!(
        codes,
        [
            Ok(1),
            Err(Code::Internal),
            Err(Code::Internal),
            Err(Code::ResourceExhausted),
            Err(Code::Internal),
            Ok(0),
            Ok(2),
        ]
    );
}

/// Messages that come whole are answered, although no message follows them in the same bytes.
#[tokio::test]
async fn messages_before_a_fault_are_answered() {
    let server = TestServer::start(&[]).await;
    let mut raw = server.raw().await;
    let body = [&framed(&[0x0a, 1, 1])[..], &[2, 0, 0, 0, 0]].concat();
    let answer = raw.exchange("AddEach", body).await;
    assert_eq!(answer.status.code(), Code::Internal);
    assert_eq!(reason(&answer.status).0, "MALFORMED_MESSAGE");
    let sums = messages::<AddEachResponse>(answer.body);
    let sums: Vec<_> = sums.into_iter().map(|sum| sum.result).collect();
    assert_eq!(sums, [Some(Sum(1))]);
}

/// Requests that no generated client makes get the codes that gRPC's guide names.
#[tokio::test]
async fn broken_requests_have_their_codes() {
    let server = TestServer::start(&[]).await;
    let mut raw = server.raw().await;
    let two = [raw::values(&[1]), raw::values(&[2])].concat();
    let cut = raw::values(&[1, 2, 3]).slice(..6);
    let half_prefix = raw::values(&[1]).slice(..3);
    for (method, body, code, why) in [
        ("Add", vec![], Code::Unimplemented, "MESSAGE_COUNT"),
        ("Add", two, Code::Unimplemented, "MESSAGE_COUNT"),
        ("Add", cut.to_vec(), Code::Internal, "MALFORMED_MESSAGE"),
        (
            "Add",
            half_prefix.to_vec(),
            Code::Internal,
            "MALFORMED_MESSAGE",
        ),
        (
            "Add",
            framed(&[0x0a, 9, 1]).into(),
            Code::Internal,
            "MALFORMED_MESSAGE",
        ),
        (
            "Add",
            framed(&[0xff; 11]).into(),
            Code::Internal,
            "MALFORMED_MESSAGE",
        ),
        (
            "Add",
            vec![2, 0, 0, 0, 0],
            Code::Internal,
            "MALFORMED_MESSAGE",
        ),
        (
            "Add",
            vec![1, 0, 0, 0, 1, 0],
            Code::Internal,
            "MALFORMED_MESSAGE",
        ),
        (
            "AddAll",
            framed(&[0x0a, 9, 1]).into(),
            Code::Internal,
            "MALFORMED_MESSAGE",
        ),
        ("AddAll", cut.to_vec(), Code::Internal, "MALFORMED_MESSAGE"),
        (
            "AddAll",
            vec![1, 0, 0, 0, 1, 0],
            Code::Internal,
            "MALFORMED_MESSAGE",
        ),
        ("AddEach", cut.to_vec(), Code::Internal, "MALFORMED_MESSAGE"),
        (
            "AddEach",
            vec![7, 0, 0, 0, 0],
            Code::Internal,
            "MALFORMED_MESSAGE",
        ),
    ] {
        let answer = raw.exchange(method, body.clone()).await;
        assert_eq!(
            answer.status.code(),
            code,
            "{method} {body:x?}: {:?}",
            answer.status
        );
        assert_eq!(reason(&answer.status).0, why, "{method} {body:x?}");
    }
    server.assert_well().await;
}

/// Clients may compress their messages, with either encoding, in every service. Answers of some size are compressed if the
/// client asks for that, and other answers are not.
#[tokio::test]
async fn messages_are_compressed() {
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut server = TestServer::start(&[]).await;
        let mut sums = SumServiceClient::new(server.channel().await).send_compressed(encoding);
        let values = vec![7; 100_000];
        let sum = sums
            .add(AddRequest {
                values: values.clone(),
            })
            .await
            .unwrap();
        assert_eq!(sum.into_inner().sum, 700_000);
        let parts = vec![AddAllRequest { values }; 5];
        let sum = sums.add_all(iter(parts)).await.unwrap().into_inner();
        assert_eq!((sum.sum, sum.count), (3_500_000, 500_000));

        let mut counters =
            CounterServiceClient::new(server.channel().await).send_compressed(encoding);
        let names = (0..500).map(|number| format!("tenants/{number:06}/requests"));
        let names: Vec<_> = names.collect();
        for names in names.chunks(100) {
            let increments = names.iter().map(|name| Increment {
                counter: name.clone(),
                delta: 1,
                ..Increment::default()
            });
            let request = BatchIncrementCountersRequest {
                increments: increments.collect(),
                ..BatchIncrementCountersRequest::default()
            };
            counters.batch_increment_counters(request).await.unwrap();
        }

        // A client that asks for nothing gets plain answers.
        let list = ListCountersRequest {
            page_size: 500,
            ..ListCountersRequest::default()
        };
        let plain = counters.list_counters(list.clone()).await.unwrap();
        assert!(plain.metadata().get("grpc-encoding").is_none());
        assert_eq!(plain.get_ref().counters.len(), 500);
        let mut asking = counters.accept_compressed(encoding);
        let packed = asking.list_counters(list).await.unwrap();
        let name = packed.metadata().get("grpc-encoding");
        assert_eq!(name.expect("an encoding"), encoding.to_string().as_str());
        assert_eq!(packed.into_inner(), plain.into_inner());
        let invalid = ListCountersRequest {
            page_size: -1,
            ..ListCountersRequest::default()
        };
        let error = asking.list_counters(invalid).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);

        // A watch tells its values compressed, and its end in plain trailers.
        let watch = WatchCountersRequest {
            prefix: "tenants/".into(),
            ..WatchCountersRequest::default()
        };
        let mut watch = asking.watch_counters(watch).await.unwrap().into_inner();
        let first = watch.message().await.unwrap().expect("the values");
        assert!(!first.counters.is_empty());
        server.stop();
        let end = loop {
            if let Err(end) = watch.message().await {
                break end;
            }
        };
        assert_eq!(end.code(), Code::Unavailable);
    }
}

/// A large answer takes fewer bytes on the wire, and a small one as many as before.
#[tokio::test]
async fn large_answers_are_smaller() {
    let server = TestServer::start(&[]).await;
    let mut counters = CounterServiceClient::new(server.channel().await);
    for number in 0..100 {
        let request = IncrementCounterRequest {
            counter: format!("tenants/{number:06}/requests"),
            delta: 1,
            ..IncrementCounterRequest::default()
        };
        counters.increment_counter(request).await.unwrap();
    }
    let mut raw = server.raw().await;
    let mut list = async |page_size, headers: &[_]| {
        let mut call = raw
            .call_path_with("/sum.v1.CounterService/ListCounters", headers)
            .await;
        let request = ListCountersRequest {
            page_size,
            ..ListCountersRequest::default()
        };
        call.send(framed(&request.encode_to_vec()), true);
        let answer = call.answer().await;
        assert_eq!(answer.status.code(), Code::Ok);
        answer.body
    };
    let plain = list(100, &[]).await;
    assert_eq!(plain[0], 0);
    for encoding in ["gzip", "zstd"] {
        let asked = [("grpc-accept-encoding", encoding)];
        let packed = list(100, &asked).await;
        assert_eq!(packed[0], 1, "it is marked as compressed");
        assert!(
            packed.len() < plain.len() / 2,
            "{} of {}",
            packed.len(),
            plain.len()
        );
        assert_eq!(
            list(2, &asked).await,
            list(2, &[]).await,
            "too small to be worth it"
        );
    }
}

/// A message that cannot be decompressed, or is over the limit when it is, ends its call with the limit in the error.
#[tokio::test]
async fn broken_compression_is_refused() {
    let server = TestServer::start(&["--max-message-size", "1MiB"]).await;
    let mut raw = server.raw().await;
    let bomb = zstd::bulk::compress(&[0x08, 1].repeat(1 << 20), 1).expect("memory");
    for (message, code, why) in [
        (&b"no zstd"[..], Code::Internal, "MALFORMED_MESSAGE"),
        (&bomb, Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
    ] {
        let mut body = framed(message).to_vec();
        body[0] = 1;
        for method in ["Add", "AddAll"] {
            let mut call = raw.call_with(method, &[("grpc-encoding", "zstd")]).await;
            call.send(body.clone(), true);
            let status = call.answer().await.status;
            assert_eq!(status.code(), code, "{method}");
            let (reason, metadata) = reason(&status);
            assert_eq!(reason, why);
            if code == Code::ResourceExhausted {
                assert_eq!(metadata["max_bytes"], (1 << 20).to_string());
            }
        }
        // An AddEach answers it, and goes on.
        let mut call = raw.call_with("AddEach", &[("grpc-encoding", "zstd")]).await;
        call.send([&body[..], &raw::values(&[5])].concat(), true);
        let answer = call.answer().await;
        assert_eq!(answer.status.code(), Code::Ok);
        let answers: Vec<AddEachResponse> = messages(answer.body);
        let [
            AddEachResponse {
                result: Some(Error(error)),
            },
            AddEachResponse {
                result: Some(Sum(5)),
            },
        ] = &answers[..]
        else {
            panic!("{answers:?}");
        };
        assert_eq!(error.code, code as i32);
    }
    server.assert_well().await;
}

/// Requests that are not gRPC are refused in HTTP's terms, and unknown methods in gRPC's.
#[tokio::test]
async fn requests_that_are_not_ours_are_refused() {
    let server = TestServer::start(&[]).await;
    let mut raw = server.raw().await;

    let get = Request::get("http://sumd/sum.v1.SumService/Add")
        .body(())
        .unwrap();
    let answer = raw.send(get).await.answer().await;
    assert_eq!(answer.http, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.headers["allow"], Method::POST.as_str());

    for content_type in [
        "application/json",
        "application/grpc-web",
        "application/grpc+json",
        "text",
    ] {
        let call = raw
            .call_with("Add", &[("content-type", content_type)])
            .await;
        assert_eq!(
            call.answer().await.http,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "{content_type}"
        );
    }
    for content_type in ["application/grpc+proto", "application/grpc;charset=utf-8"] {
        let mut call = raw
            .call_with("Add", &[("content-type", content_type)])
            .await;
        call.send(raw::values(&[1]), true);
        assert_eq!(
            call.answer().await.status.code(),
            Code::Ok,
            "{content_type}"
        );
    }

    let answer = raw.exchange("Subtract", raw::values(&[1])).await;
    assert_eq!(answer.status.code(), Code::Unimplemented);
    assert!(
        answer
            .status
            .message()
            .contains("/sum.v1.SumService/Subtract")
    );

    let mut call = raw.call_with("Add", &[("grpc-encoding", "br")]).await;
    call.send(raw::values(&[1]), true);
    let answer = call.answer().await;
    assert_eq!(answer.status.code(), Code::Unimplemented);
    assert_eq!(reason(&answer.status).0, "COMPRESSED_MESSAGE");
    assert_eq!(answer.headers["grpc-accept-encoding"], "identity,gzip,zstd");

    // A request may end with its headers.
    let answer = raw.answer_without_body("Add").await;
    assert_eq!(answer.status.code(), Code::Unimplemented);
    assert_eq!(reason(&answer.status).0, "MESSAGE_COUNT");

    let mut call = raw.call_with("Add", &[("grpc-timeout", "soon")]).await;
    call.send(raw::values(&[1]), true);
    assert_eq!(call.answer().await.status.code(), Code::Internal);
}

/// Every form of a UUIDv7 is one id, both of requests and of sessions, and carries its time. The answer to one that is
/// too old says what to do.
#[tokio::test]
async fn forms_of_a_uuid_are_one_id() {
    let server = TestServer::start(&[]).await;
    let mut client = CounterServiceClient::new(server.channel().await);
    let forms = |uuid: uuid::Uuid| {
        let (text, bare) = (uuid.to_string(), uuid.simple().to_string());
        let (braced, urn) = (uuid.braced().to_string(), uuid.urn().to_string());
        [
            text.to_uppercase(),
            text,
            bare.to_uppercase(),
            bare,
            braced,
            urn,
        ]
    };
    let increment = |id: &str| IncrementCounterRequest {
        counter: "g/a".to_owned(),
        delta: 1,
        request_id: id.to_owned(),
        ..IncrementCounterRequest::default()
    };
    for (index, form) in forms(uuid::Uuid::now_v7()).iter().enumerate() {
        let answer = soon(client.increment_counter(increment(form))).await;
        let answer = answer.expect("it is new, or known").into_inner();
        assert_eq!((answer.value, answer.replayed), (1, index > 0), "{form}");
    }
    let old = uuid::Timestamp::from_unix(uuid::NoContext, 1_700_000_000, 0);
    for form in forms(uuid::Uuid::new_v7(old)) {
        let status = soon(client.increment_counter(increment(&form))).await;
        let status = status.expect_err("it is of 2023");
        assert_eq!(reason(&status).0, "REQUEST_TOO_OLD", "{form}");
        for remedy in ["--id-horizon", "RecordIncrements"] {
            assert!(status.message().contains(remedy), "{status:?}");
        }
    }
    let forms = forms(uuid::Uuid::now_v7());
    for (acknowledged, form) in (0..).zip(&forms) {
        let message = RecordIncrementsRequest {
            session_id: form.clone(),
            sequence: acknowledged + 1,
            acknowledged,
            increments: vec![Increment {
                counter: "g/b".to_owned(),
                delta: 1,
                ..Increment::default()
            }],
            ..RecordIncrementsRequest::default()
        };
        let answers = soon(client.record_increments(iter([message]))).await;
        let mut answers = answers.expect("a stream").into_inner();
        let mut told = 0;
        while let Some(answer) = soon(answers.next()).await {
            told = answer.expect("no error").acknowledged;
        }
        assert_eq!(told, acknowledged + 1, "{form}");
    }
    let get = GetCounterRequest {
        counter: "g/b".to_owned(),
        ..GetCounterRequest::default()
    };
    let counter = soon(client.get_counter(get)).await.expect("an answer");
    let value = counter.into_inner().counter.expect("a counter").value;
    assert_eq!(value, i64::try_from(forms.len()).expect("few"));
}

/// Health is reported for the server and for the service, and for no other name.
#[tokio::test]
async fn health_is_reported() {
    let server = TestServer::start(&[]).await;
    let mut client = HealthClient::new(server.channel().await);
    for service in ["", "sum.v1.SumService"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let status = client.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving);
    }
    let unknown = HealthCheckRequest {
        service: "nobody".into(),
    };
    assert_eq!(
        client.check(unknown).await.unwrap_err().code(),
        Code::NotFound
    );
}

/// A watch of an unknown service gets SERVICE_UNKNOWN and stays open, as gRPC's health protocol specifies.
#[tokio::test]
async fn health_of_an_unknown_service_is_watched() {
    let server = TestServer::start(&[]).await;
    let mut client = HealthClient::new(server.channel().await);
    let mut watch = async |service: &str| {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let watch = client.watch(request).await.expect("a watch");
        let mut watch = watch.into_inner();
        let first = soon(watch.next()).await.expect("an answer");
        (first.expect("a status").status(), watch)
    };
    let (known, _watch) = watch("sum.v1.CounterService").await;
    assert_eq!(known, ServingStatus::Serving);
    let (unknown, mut watch) = watch("nobody").await;
    assert_eq!(unknown, ServingStatus::ServiceUnknown);
    let more = tokio::time::timeout(std::time::Duration::from_millis(100), watch.next());
    assert!(more.await.is_err(), "it stays, and there is no news");
}

/// An error stays small enough for clients if it quotes a long text: many clients accept 8 KiB of trailers. A text that
/// was cut is given with its length.
#[tokio::test]
async fn what_is_quoted_is_cut() {
    let server = TestServer::start(&[]).await;
    let mut raw = server.raw().await;
    let long = "x".repeat(9000);
    let mut statuses = Vec::new();
    for method in [&*long, &*"%C3%A9".repeat(1500), &*"%ff".repeat(3000)] {
        let call = raw.call_path(&format!("/sum.v1.SumService/{method}")).await;
        statuses.push((call.answer().await, Code::Unimplemented));
    }
    for (header, value, code) in [
        ("grpc-encoding", long.clone(), Code::Unimplemented),
        ("grpc-timeout", long.clone(), Code::Internal),
        ("grpc-timeout", "\u{e9}".repeat(4500), Code::Internal),
    ] {
        let call = raw.call_with("Add", &[(header, &value)]).await;
        statuses.push((call.answer().await, code));
    }
    let service = prost::Message::encode_to_vec(&HealthCheckRequest {
        service: long.clone(),
    });
    let mut call = raw.call_path("/grpc.health.v1.Health/Check").await;
    call.send(framed(&service), true);
    statuses.push((call.answer().await, Code::NotFound));
    for name in [long.clone(), "\u{e9}".repeat(4500)] {
        let symbol = tonic_reflection::pb::v1::server_reflection_request::MessageRequest::FileContainingSymbol(name);
        let request = tonic_reflection::pb::v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(symbol),
        };
        let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        let mut call = raw.call_path(path).await;
        call.send(framed(&prost::Message::encode_to_vec(&request)), true);
        statuses.push((call.answer().await, Code::NotFound));
    }
    for (answer, code) in statuses {
        let status = &answer.status;
        assert_eq!(status.code(), code, "{status:?}");
        let all = answer.trailers.iter().chain(&answer.headers);
        let bytes: usize = all
            .map(|(name, value)| name.as_str().len() + value.len() + 32)
            .sum();
        assert!(bytes < 4 << 10, "{bytes} bytes: {status:?}");
        assert!(status.message().contains(" bytes)"), "{status:?}");
    }
}

/// Reflection lists the services, in the version that current tools use and in the one before.
#[tokio::test]
async fn reflection_lists_the_services() {
    let server = TestServer::start(&[]).await;
    macro_rules! services {
        ($version:ident) => {{
            use tonic_reflection::pb::$version as pb;
            let channel = server.channel().await;
            let mut client = pb::server_reflection_client::ServerReflectionClient::new(channel);
            let list = pb::server_reflection_request::MessageRequest::ListServices(String::new());
            let request = pb::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(list),
            };
            let answers = client.server_reflection_info(iter([request])).await;
            let answer = soon(answers.unwrap().into_inner().next()).await;
            match answer.unwrap().unwrap().message_response {
                Some(pb::server_reflection_response::MessageResponse::ListServicesResponse(l)) => l
                    .service
                    .into_iter()
                    .map(|service| service.name)
                    .collect::<Vec<_>>(),
                other => panic!("{other:?}"),
            }
        }};
    }
    for names in [services!(v1), services!(v1alpha)] {
        for name in ["sum.v1.SumService", "grpc.health.v1.Health"] {
            assert!(
                names.iter().any(|other| other == name),
                "{name} in {names:?}"
            );
        }
    }
}
