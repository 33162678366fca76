//! Counters: a call each for inc and get, and for watch a stream that resumes.

use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use crate::{
    DEADLINE, Failure,
    balancer::{Backoff, Balancer, by_the_book},
    connect, integer, not_a,
    pb::{
        BatchGetCountersRequest, Counter, IncrementCounterRequest, WatchCountersRequest,
        WatchCountersResponse, counter_service_client::CounterServiceClient,
    },
};

/// Adds to a counter. All attempts of the balancer have the same request id. If they fail with the
/// outcome UNKNOWN, or without an outcome, the same id may be sent again to find out.
pub async fn increment(
    addresses: &str,
    counter: &str,
    delta: &str,
    request_id: &str,
) -> Result<(), Failure> {
    let request = IncrementCounterRequest {
        counter: counter.to_owned(),
        delta: integer(delta).map_err(Failure::Usage)?,
        request_id: request_id.to_owned(),
        ..Default::default()
    };
    let answer = connect(addresses)?
        .call(request, DEADLINE, async |channel, request| {
            CounterServiceClient::new(channel)
                .increment_counter(request)
                .await
        })
        .await?;
    println!(
        "{} applied={} revision={} replayed={}",
        answer.value, answer.applied, answer.revision, answer.replayed
    );
    Ok(())
}

pub async fn get(addresses: &str, names: &[&str]) -> Result<(), Failure> {
    let request = BatchGetCountersRequest {
        counters: names.iter().map(ToString::to_string).collect(),
        ..BatchGetCountersRequest::default()
    };
    let answer = connect(addresses)?
        .call(request, DEADLINE, async |channel, request| {
            CounterServiceClient::new(channel)
                .batch_get_counters(request)
                .await
        })
        .await?;
    for counter in &answer.counters {
        println!("{}", describe(counter));
    }
    Ok(())
}

fn describe(counter: &Counter) -> String {
    format!("{} {} {}", counter.name, counter.value, counter.revision)
}

/// After a broken stream, opens another one, from the last revision on.
pub async fn watch(addresses: &str, prefix: &str, count: &str) -> Result<(), Failure> {
    let lines = count.parse().ok().filter(|&lines| lines > 0);
    let mut watch = Watch {
        servers: connect(addresses)?,
        prefix: prefix.to_owned(),
        lines: lines.ok_or_else(|| Failure::Usage(not_a("number of lines", count)))?,
        revision: 0,
        begun: false,
        backoff: Backoff::default(),
    };
    while let Err(status) = watch.follow().await.map_err(by_the_book) {
        // The deadline is that of the wait for a healthy server.
        if !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) {
            return Err(Failure::Call(status));
        }
        sleep(watch.backoff.next()).await;
    }
    Ok(())
}

struct Watch {
    servers: Balancer,
    prefix: String,
    /// The number of lines still to print.
    lines: u64,
    revision: i64,
    begun: bool,
    backoff: Backoff,
}

impl Watch {
    /// Returns when all lines are printed, or an error with the reason if the stream ends before.
    async fn follow(&mut self) -> Result<(), Status> {
        let channel = self.servers.next(Instant::now() + DEADLINE).await?;
        let request = WatchCountersRequest {
            prefix: self.prefix.clone(),
            from_revision: self.revision,
            ..Default::default()
        };
        let mut client = CounterServiceClient::new(channel);
        let mut answers = client.watch_counters(request).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            for line in changes(&answer, self.begun) {
                println!("{line}");
                self.lines -= 1;
                if self.lines == 0 {
                    return Ok(());
                }
            }
            self.revision = answer.revision;
            self.begun = true;
            self.backoff = Backoff::default();
        }
        Err(Status::unavailable("the server ended the stream"))
    }
}

fn changes(answer: &WatchCountersResponse, begun: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if answer.restarted && begun {
        // Deletions in between are unknown: the whole state follows.
        lines.push("restarted".to_owned());
    }
    lines.extend(answer.counters.iter().map(describe));
    lines.extend(answer.deleted.iter().map(|name| format!("{name} deleted")));
    if answer.synced {
        lines.push(format!("synced {}", answer.revision));
    }
    lines
}
