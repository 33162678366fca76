//! `WatchCounters`: the state, then every change.

use std::collections::BTreeMap;

use sumd::proto::sum::v1::{DeleteCounterRequest, WatchCountersRequest, WatchCountersResponse};
use tonic::{Code, Status, Streaming};

use super::hostile::flood;
use super::{Client, increment, refused, serve};
use crate::support::{reason, soon};

/// The state that a client builds from the answers.
pub struct View {
    answers: Streaming<WatchCountersResponse>,
    counters: BTreeMap<String, (i64, i64)>,
    pub revision: i64,
    pub restarts: usize,
    answered: usize,
}

impl View {
    pub async fn open(client: &mut Client, request: WatchCountersRequest) -> Self {
        let answers = soon(client.watch_counters(request))
            .await
            .expect("a stream");
        Self {
            answers: answers.into_inner(),
            counters: BTreeMap::new(),
            revision: 0,
            restarts: 0,
            answered: 0,
        }
    }

    /// Resumes on a new stream, which may be to another node.
    pub async fn resume(&mut self, client: &mut Client, request: WatchCountersRequest) {
        let from = WatchCountersRequest {
            from_revision: self.revision,
            ..request
        };
        let answers = soon(client.watch_counters(from)).await.expect("a stream");
        self.answers = answers.into_inner();
    }

    pub async fn next(&mut self) -> WatchCountersResponse {
        self.try_next().await.expect("no error")
    }

    pub async fn try_next(&mut self) -> Result<WatchCountersResponse, Status> {
        let answer = soon(self.answers.message()).await?;
        let answer = answer.expect("a watch has no end");
        if answer.restarted {
            self.counters.clear();
            self.restarts += 1;
        }
        for counter in &answer.counters {
            let new = (counter.value, counter.revision);
            if let Some((_, before)) = self.counters.insert(counter.name.clone(), new) {
                assert!(before <= new.1, "{} goes back", counter.name);
            }
        }
        for name in &answer.deleted {
            self.counters.remove(name);
        }
        assert!(
            answer.revision >= self.revision,
            "what to resume from grows"
        );
        self.revision = answer.revision;
        self.answered += 1;
        Ok(answer)
    }

    pub async fn until_synced(&mut self) {
        while !self.next().await.synced {}
    }

    /// Reads until everything up to a revision has arrived.
    pub async fn until(&mut self, revision: i64) {
        while self.revision < revision {
            self.next().await;
        }
    }

    pub fn values(&self) -> Vec<(&str, i64)> {
        let counters = self.counters.iter();
        counters
            .map(|(name, (value, _))| (&**name, *value))
            .collect()
    }
}

pub fn prefix(prefix: &str, from_revision: i64) -> WatchCountersRequest {
    WatchCountersRequest {
        prefix: prefix.into(),
        from_revision,
        ..WatchCountersRequest::default()
    }
}

pub async fn delete(client: &mut Client, counter: &str) -> i64 {
    let request = DeleteCounterRequest {
        counter: counter.into(),
        ..DeleteCounterRequest::default()
    };
    let answer = soon(client.delete_counter(request)).await.expect("deleted");
    answer.into_inner().revision
}

#[tokio::test]
async fn a_watch_has_the_state_and_then_changes() {
    let (_server, mut client) = serve().await;
    increment(&mut client, "a/1", 1).await;
    increment(&mut client, "b", 9).await;
    let mut view = View::open(&mut client, prefix("a/", 0)).await;
    view.until_synced().await;
    assert_eq!((view.values(), view.restarts), (vec![("a/1", 1)], 1));

    increment(&mut client, "a/1", 1).await;
    let last = increment(&mut client, "a/2", 5).await.revision;
    view.until(last).await;
    assert_eq!(view.values(), [("a/1", 2), ("a/2", 5)]);
    let last = delete(&mut client, "a/1").await;
    view.until(last).await;
    assert_eq!(view.values(), [("a/2", 5)]);
}

#[tokio::test]
async fn names_are_watched_also_before_they_are_there() {
    let (_server, mut client) = serve().await;
    let names = WatchCountersRequest {
        counters: vec!["x".into(), "y".into()],
        ..WatchCountersRequest::default()
    };
    let mut view = View::open(&mut client, names).await;
    view.until_synced().await;
    assert_eq!(view.values(), [("x", 0), ("y", 0)]);
    increment(&mut client, "z", 1).await;
    let last = increment(&mut client, "y", 2).await.revision;
    view.until(last).await;
    assert_eq!(view.values(), [("x", 0), ("y", 2)]);
    let last = delete(&mut client, "y").await;
    view.until(last).await;
    assert_eq!(view.values(), [("x", 0)]);
}

/// A watch resumes at its last revision, deletions included, even if the changes are no longer in memory.
#[tokio::test]
async fn a_watch_resumes() {
    let (_server, mut client) = serve().await;
    for name in ["a", "b", "c"] {
        increment(&mut client, name, 1).await;
    }
    let mut view = View::open(&mut client, prefix("", 0)).await;
    view.until_synced().await;
    let from = view.revision;
    drop(view);
    increment(&mut client, "b", 1).await;
    let last = delete(&mut client, "c").await;

    let mut view = View::open(&mut client, prefix("", from)).await;
    let first = view.next().await;
    assert!(first.synced && !first.restarted);
    assert_eq!(view.values(), [("b", 2)]);
    assert_eq!((first.deleted, view.revision), (vec!["c".to_owned()], last));

    // A revision that this server has not reached: it came from another server, or a backup was restored.
    let mut view = View::open(&mut client, prefix("", last + 1000)).await;
    let first = soon(view.answers.message())
        .await
        .expect("no error")
        .expect("an answer");
    assert!(first.restarted);
}

/// A watch that resumes after more changes than memory holds reads the store.
#[tokio::test]
async fn a_watch_that_is_far_behind_reads_the_store() {
    let (_server, mut client) = serve().await;
    let from = increment(&mut client, "a", 1).await.revision;
    increment(&mut client, "b", 1).await;
    delete(&mut client, "b").await;
    let mut last = 0;
    for _ in 0..4200 {
        last = increment(&mut client, "c", 1).await.revision;
    }
    let mut view = View::open(&mut client, prefix("", from)).await;
    let first = view.next().await;
    assert_eq!(
        (first.deleted, first.restarted),
        (vec!["b".to_owned()], false)
    );
    view.until(last).await;
    assert_eq!(view.values(), [("c", 4200)]);
}

/// Changes of more counters than one answer holds come in several answers, and a watch that breaks between them loses
/// none.
#[tokio::test]
async fn changes_of_many_counters_are_resumed_in_their_midst() {
    let (_server, mut client) = serve().await;
    let from = increment(&mut client, "a", 1).await.revision;
    flood(&mut client, 0, 3).await;
    let last = increment(&mut client, "z", 1).await.revision;

    let mut view = View::open(&mut client, prefix("", from)).await;
    let first = view.next().await;
    assert!((1..3001).contains(&first.counters.len()) && !first.synced);
    assert_eq!(view.revision, from, "not all of it has come");
    increment(&mut client, &first.counters[0].name, 1).await;
    let mut resumed = View::open(&mut client, prefix("", view.revision)).await;
    for view in [&mut view, &mut resumed] {
        view.until_synced().await;
        view.until(last + 1).await;
        assert_eq!((view.counters.len(), view.restarts), (3001, 0));
        let again = view.counters[&first.counters[0].name];
        assert_eq!(
            again,
            (2, last + 1),
            "what has changed meanwhile comes again"
        );
    }
}

/// A slow reader gets the latest values, not every intermediate one.
#[tokio::test]
async fn a_slow_reader_gets_the_latest() {
    let (_server, mut client) = serve().await;
    let mut view = View::open(&mut client, prefix("", 0)).await;
    view.until_synced().await;
    let mut last = 0;
    for i in 0..2000 {
        last = increment(&mut client, &format!("c/{}", i % 3), 1)
            .await
            .revision;
    }
    view.until(last).await;
    assert_eq!(view.values(), [("c/0", 667), ("c/1", 667), ("c/2", 666)]);
    assert!(view.answered < 1500, "{} answers", view.answered);
}

#[tokio::test]
async fn a_watch_of_nonsense_is_refused() {
    let (_server, mut client) = serve().await;
    let both = WatchCountersRequest {
        counters: vec!["a".into()],
        ..prefix("a", 0)
    };
    let many = WatchCountersRequest {
        counters: vec!["a".into(); 101],
        ..prefix("", 0)
    };
    for wrong in [both, many, prefix("a\n", 0), prefix("", -1)] {
        let status = soon(client.watch_counters(wrong)).await;
        refused(&status.expect_err("nonsense"), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn draining_ends_a_watch() {
    let (mut server, mut client) = serve().await;
    let mut view = View::open(&mut client, prefix("", 0)).await;
    view.until_synced().await;
    server.stop();
    let status = soon(view.answers.message()).await.expect_err("it drains");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status).0, "SHUTTING_DOWN");
    server.ended().await;
}
