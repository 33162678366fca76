//! `sumd counter`: reads and changes counters.

use tonic::Status;
use tonic::transport::Channel;
use uuid::Uuid;

use super::client::{ClientError, change, in_time, print};
use crate::config::{
    CounterCommand, CounterOptions, IdOptions, IncOptions, ListOptions, RmOptions, SetOptions,
    WatchOptions,
};
use crate::proto::sum::v1::counter_service_client::CounterServiceClient;
use crate::proto::sum::v1::{
    BatchGetCountersRequest, DeleteCounterRequest, IncrementCounterRequest, ListCountersRequest,
    OnLimit, SetCounterRequest, SumCountersRequest, WatchCountersRequest,
};

type Client = CounterServiceClient<Channel>;

/// Counters per page.
const PAGE_SIZE: i32 = 1000;

/// Runs a command and returns the lines to print at its end. List and watch print as they go.
///
/// # Errors
/// Returns an error if the server cannot be reached, is too slow, or refuses.
pub async fn counter(command: CounterCommand) -> Result<Vec<String>, ClientError> {
    match command {
        CounterCommand::Inc(options) => inc(options).await,
        CounterCommand::Get(options) => get(options).await,
        CounterCommand::List(options) => list(options).await,
        CounterCommand::Sum(options) => sum(options).await,
        CounterCommand::Watch(options) => watch(options).await,
        CounterCommand::Set(options) => set(options).await,
        CounterCommand::Rm(options) => rm(options).await,
    }
}

fn request_id(options: IdOptions) -> String {
    let new = || Uuid::now_v7().to_string();
    options.request_id.unwrap_or_else(new)
}

async fn inc(options: IncOptions) -> Result<Vec<String>, ClientError> {
    let on_limit = if options.saturate {
        OnLimit::Saturate
    } else {
        OnLimit::Reject
    };
    let request = IncrementCounterRequest {
        counter: options.counter,
        delta: options.delta,
        request_id: request_id(options.id),
        request_time: None,
        min: options.min,
        max: options.max,
        on_limit: on_limit.into(),
    };
    change(&options.server, &request.request_id, async |channel| {
        let answer = Client::new(channel)
            .increment_counter(request.clone())
            .await?;
        Ok(vec![answer.into_inner().value.to_string()])
    })
    .await
}

async fn get(options: CounterOptions) -> Result<Vec<String>, ClientError> {
    let counters = options.counters;
    in_time(&options.server, async |channel| {
        let request = BatchGetCountersRequest {
            counters: counters.clone(),
            ..BatchGetCountersRequest::default()
        };
        let answer = Client::new(channel).batch_get_counters(request).await?;
        let counters = answer.into_inner().counters.into_iter();
        Ok(counters.map(|counter| counter.value.to_string()).collect())
    })
    .await
}

async fn list(options: ListOptions) -> Result<Vec<String>, ClientError> {
    let mut page_token = String::new();
    loop {
        let request = ListCountersRequest {
            prefix: options.prefix.clone(),
            page_size: PAGE_SIZE,
            page_token,
        };
        let page = in_time(&options.server, async |channel| {
            Ok(Client::new(channel).list_counters(request.clone()).await?)
        });
        let page = page.await?.into_inner();
        let lines = page.counters.iter();
        let lines = lines.map(|counter| format!("{} {}\n", counter.name, counter.value));
        print(&lines.collect::<Vec<_>>().concat())?;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(Vec::new());
        }
    }
}

async fn sum(options: ListOptions) -> Result<Vec<String>, ClientError> {
    let prefix = options.prefix;
    in_time(&options.server, async |channel| {
        let request = SumCountersRequest {
            prefix: prefix.clone(),
        };
        let answer = Client::new(channel).sum_counters(request).await?;
        Ok(vec![answer.into_inner().sum.to_string()])
    })
    .await
}

async fn watch(options: WatchOptions) -> Result<Vec<String>, ClientError> {
    // The first server that can be reached.
    let channel = in_time(&options.server, async |channel| Ok(channel)).await?;
    let request = WatchCountersRequest {
        prefix: options.prefix,
        from_revision: options.from_revision,
        ..WatchCountersRequest::default()
    };
    let answers = Client::new(channel).watch_counters(request).await?;
    let mut answers = answers.into_inner();
    let mut revision = options.from_revision;
    loop {
        let ended = |status: Status| ClientError::WatchEnded(Box::new(status.into()), revision);
        let answer = answers.message().await.map_err(ended)?;
        let answer =
            answer.ok_or_else(|| ended(Status::unavailable("the server ended the watch")))?;
        revision = answer.revision;
        let there = answer.counters.iter();
        let there = there.map(|counter| format!("{} {}\n", counter.name, counter.value));
        let deleted = answer
            .deleted
            .iter()
            .map(|name| format!("{name} deleted\n"));
        let lines: String = there.chain(deleted).collect();
        print(&lines)?;
    }
}

async fn set(options: SetOptions) -> Result<Vec<String>, ClientError> {
    let request = SetCounterRequest {
        counter: options.counter,
        value: options.value,
        request_id: request_id(options.id),
        request_time: None,
    };
    change(&options.server, &request.request_id, async |channel| {
        let answer = Client::new(channel).set_counter(request.clone()).await?;
        Ok(vec![answer.into_inner().previous_value.to_string()])
    })
    .await
}

async fn rm(options: RmOptions) -> Result<Vec<String>, ClientError> {
    let request = DeleteCounterRequest {
        counter: options.counter,
        request_id: request_id(options.id),
        request_time: None,
    };
    change(&options.server, &request.request_id, async |channel| {
        let answer = Client::new(channel).delete_counter(request.clone()).await?;
        Ok(vec![answer.into_inner().previous_value.to_string()])
    })
    .await
}
