//! Clients that read and watch.

use std::collections::HashMap;
use std::time::Duration;

use sumd::proto::sum::v1::{
    BatchGetCountersRequest, Counter, GetCounterRequest, ListCountersRequest, SumCountersRequest,
    WatchCountersRequest,
};
use tokio::sync::watch;
use tonic::Status;

use super::checks::Counters;
use super::history::{History, Read, Seen, Sum, Told, Wanted, Watched};
use super::link::{Link, in_time};
use super::operation::{Client, Name};
use super::sessions::TALLIES;
use super::writers::{BANK, EDGE, HOT, REPLACED, SOME};
use crate::support::soon;

/// Number of clients that read.
pub const READERS: usize = 5;

/// The groups that are read, with their numbers of counters.
const READ: [(&str, usize); 6] = [
    ("hot", HOT),
    ("some", SOME),
    ("edge", EDGE),
    ("bank", BANK),
    ("replaced", REPLACED),
    ("tally", TALLIES),
];

/// Groups whose changes all have known revisions, and whose sum fits int64.
const SUMMED: [&str; 4] = ["hot", "some", "bank", "replaced"];

fn seen(counter: Counter) -> Seen {
    Seen {
        counter: counter.name.into(),
        value: counter.value,
        revision: counter.revision,
    }
}

/// Makes one read after the other. A failed read is not recorded.
pub async fn read(mut link: Link) -> History {
    let mut history = History::default();
    while !link.stopped() {
        if let Err(status) = read_once(&mut link, &mut history).await {
            link.excuse(&status);
        }
        link.rest().await;
    }
    history
}

async fn read_once(link: &mut Link, history: &mut History) -> Result<(), Status> {
    let (clock, deadline) = (link.context.clock, link.deadline());
    let mut client = link.client().await.clone();
    let kind = link.rng.u8(..4);
    if kind == 0 {
        let group = SUMMED[link.rng.usize(..SUMMED.len())];
        let prefix = link.context.names.prefix(group);
        let asked = clock.now();
        let request = SumCountersRequest {
            prefix: prefix.clone(),
        };
        let sum = in_time(deadline, client.sum_counters(request))
            .await?
            .into_inner();
        history.sums.push(Sum {
            span: clock.since(asked),
            prefix,
            total: sum.sum,
            count: sum.count,
            revision: sum.revision,
        });
        return Ok(());
    }
    let count = if kind == 1 { 1 } else { link.rng.usize(2..=60) };
    let mut of = READ[link.rng.usize(..READ.len())];
    let mut counters = Vec::new();
    for _ in 0..count {
        if kind == 3 {
            of = READ[link.rng.usize(..READ.len())];
        }
        let counter = link.context.names.of(of.0, link.rng.usize(..of.1));
        counters.push(counter.to_string());
    }
    let asked = clock.now();
    let counters = if kind == 1 {
        let counter = counters.remove(0);
        let request = GetCounterRequest {
            counter,
            ..GetCounterRequest::default()
        };
        let found = in_time(deadline, client.get_counter(request)).await?;
        found.into_inner().counter.into_iter().collect()
    } else {
        let request = BatchGetCountersRequest {
            counters,
            ..BatchGetCountersRequest::default()
        };
        let found = in_time(deadline, client.batch_get_counters(request)).await?;
        found.into_inner().counters
    };
    history.reads.push(Read {
        span: clock.since(asked),
        counters: counters.into_iter().map(seen).collect(),
        together: kind != 3,
    });
    Ok(())
}

/// All counters of the server.
pub async fn all(client: &mut Client) -> Counters {
    let listed = list(client).await.into_iter();
    listed
        .map(|seen| (seen.counter, (seen.value, seen.revision)))
        .collect()
}

/// All counters, listed page by page.
async fn list(client: &mut Client) -> Vec<Seen> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListCountersRequest {
            prefix: String::new(),
            page_size: 37,
            page_token,
        };
        let page = soon(client.list_counters(request)).await;
        let page = page.expect("the server stays now").into_inner();
        all.extend(page.counters.into_iter().map(seen));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

/// The last changes of some counters, once they are made.
pub type Ends = watch::Receiver<HashMap<Name, i64>>;

/// Watches, over several streams, until everything up to the last change of `end` has arrived.
pub async fn watch(mut link: Link, wanted: Wanted, end: Name, mut ends: Ends) -> History {
    let mut told = Vec::new();
    for stream in 0.. {
        if link.rng.u8(..) < 80 {
            // Long enough for the server to be restarted and to have forgotten what it sent last.
            link.think(Duration::from_secs(1)).await;
        }
        match watch_once(&mut link, stream, &wanted, &end, &mut ends, &mut told).await {
            Ok(true) => break,
            // Another server can resume the watch, too.
            Ok(false) => link.turn(),
            Err(status) => {
                link.excuse(&status);
                link.rest().await;
            }
        }
    }
    History {
        watches: vec![Watched { wanted, told }],
        ..History::default()
    }
}

/// Runs one stream, and sometimes leaves early. Returns whether the end was reached.
async fn watch_once(
    link: &mut Link,
    stream: u32,
    wanted: &Wanted,
    end: &Name,
    ends: &mut Ends,
    told: &mut Vec<Told>,
) -> Result<bool, Status> {
    let mut revision = told.last().map_or(0, |told: &Told| told.answer.revision);
    let request = match wanted {
        Wanted::Prefix(prefix) => WatchCountersRequest {
            prefix: prefix.clone(),
            from_revision: revision,
            ..WatchCountersRequest::default()
        },
        Wanted::Names(names) => WatchCountersRequest {
            counters: names.iter().map(ToString::to_string).collect(),
            from_revision: revision,
            ..WatchCountersRequest::default()
        },
    };
    let deadline = link.deadline();
    let client = link.client().await;
    let answers = in_time(deadline, client.watch_counters(request)).await;
    let mut answers = answers?.into_inner();
    loop {
        let last = ends.borrow_and_update().get(end).copied();
        if last.is_some_and(|last| revision >= last) {
            return Ok(true);
        }
        tokio::select! {
            answer = answers.message() => {
                let early = || Status::unknown("the server has ended the stream early");
                let answer = answer?.ok_or_else(early)?;
                revision = answer.revision;
                let at = link.context.clock.now();
                told.push(Told { at, stream, answer });
                if last.is_none() && link.rng.u8(..) == 0 {
                    return Ok(false);
                }
            }
            changed = ends.changed() => changed.expect("the run goes on"),
        }
    }
}
