//! The methods that read counters: their requests validated, and their answers made.

use std::sync::Arc;

use tonic::Status;

use super::page_token;
use crate::counters::{Changes, Counters, Freshness, MAX_BATCH, Violations, Watched};
use crate::proto::sum::v1::{
    BatchGetCountersRequest, BatchGetCountersResponse, Consistency, Counter, GetCounterRequest,
    GetCounterResponse, ListCountersRequest, ListCountersResponse, SumCountersRequest,
    SumCountersResponse, WatchCountersRequest, WatchCountersResponse,
};
use crate::status;
use crate::store::Row;

/// Number of counters in a page if the client does not set it.
const DEFAULT_PAGE: usize = 100;
/// Maximum number of counters in a page.
const MAX_PAGE: usize = 1000;

/// A counter in an answer. One that does not exist has the value 0 and the revision 0.
fn counter(name: &str, row: Option<&Row>) -> Counter {
    let there = row.and_then(|row| Some((row.value?, row.revision)));
    let (value, revision) = there.unwrap_or((0, 0));
    Counter {
        name: name.to_owned(),
        value,
        revision,
    }
}

fn freshness(violations: &mut Violations, consistency: i32, min_revision: i64) -> Freshness {
    if min_revision < 0 {
        violations.add("min_revision", format!("it is {min_revision}, below 0"));
    }
    match Consistency::try_from(consistency) {
        Ok(Consistency::Unspecified | Consistency::Linearizable) => Freshness::Newest,
        Ok(Consistency::StaleOk) => Freshness::NotBefore(min_revision),
        Err(_) => {
            let problem = format!(
                "it is {consistency}; expected CONSISTENCY_LINEARIZABLE or CONSISTENCY_STALE_OK"
            );
            violations.add("consistency", problem);
            Freshness::Newest
        }
    }
}

/// Reads a counter.
pub(super) async fn get(
    counters: &Counters,
    request: GetCounterRequest,
) -> Result<GetCounterResponse, Status> {
    let mut violations = Violations::default();
    violations.name("counter", &request.counter);
    let freshness = freshness(&mut violations, request.consistency, request.min_revision);
    let name = violations.check(request.counter)?;
    let rows = counters.read(vec![name.as_str().into()], freshness).await?;
    let row = rows.rows.first().and_then(Option::as_ref);
    Ok(GetCounterResponse {
        counter: Some(counter(&name, row)),
    })
}

/// Reads several counters, at one revision.
pub(super) async fn batch_get(
    counters: &Counters,
    request: BatchGetCountersRequest,
) -> Result<BatchGetCountersResponse, Status> {
    let mut violations = Violations::default();
    violations.count("counters", request.counters.len());
    names(&mut violations, &request.counters);
    let freshness = freshness(&mut violations, request.consistency, request.min_revision);
    let names = violations.check(request.counters)?;
    let all = names.iter().map(|name| name.as_str().into()).collect();
    let rows = counters.read(all, freshness).await?.rows;
    let pairs = names.iter().zip(&rows);
    Ok(BatchGetCountersResponse {
        counters: pairs
            .map(|(name, row)| counter(name, row.as_ref()))
            .collect(),
    })
}

/// Checks the first [`MAX_BATCH`] names of the field `counters`.
fn names(violations: &mut Violations, names: &[String]) {
    for (index, name) in names.iter().enumerate().take(MAX_BATCH) {
        violations.name(&format!("counters[{index}]"), name);
    }
}

/// Reads a page of counters.
pub(super) async fn list(
    counters: &Counters,
    request: ListCountersRequest,
) -> Result<ListCountersResponse, Status> {
    let hasher = counters.hasher();
    let mut violations = Violations::default();
    violations.prefix(&request.prefix);
    let size = match usize::try_from(request.page_size) {
        Ok(0) => DEFAULT_PAGE,
        Ok(size) => size.min(MAX_PAGE),
        Err(_) => {
            violations.add("page_size", format!("it is {}, below 0", request.page_size));
            DEFAULT_PAGE
        }
    };
    let mut after: Option<Arc<str>> = None;
    if !request.page_token.is_empty() {
        match page_token::decode(hasher, &request.prefix, &request.page_token) {
            Some(last) => after = Some(last.into()),
            None => violations.add(
                "page_token",
                "it is not the next_page_token of a list with this prefix",
            ),
        }
    }
    let prefix = violations.check(request.prefix)?;
    let found = counters.list(prefix.as_str().into(), after, size).await?;
    let last = found.rows.last().filter(|_| found.has_more);
    Ok(ListCountersResponse {
        next_page_token: last.map_or_else(String::new, |last| {
            page_token::encode(hasher, &prefix, &last.name)
        }),
        counters: found
            .rows
            .iter()
            .map(|row| counter(&row.name, Some(row)))
            .collect(),
    })
}

/// Sums the counters with a prefix.
pub(super) async fn sum(
    counters: &Counters,
    request: SumCountersRequest,
) -> Result<SumCountersResponse, Status> {
    let mut violations = Violations::default();
    violations.prefix(&request.prefix);
    let prefix = violations.check(request.prefix)?;
    let found = counters.sum(prefix.into()).await?;
    let sum = i64::try_from(found.sum).map_err(|_| status::sum_out_of_range(found.sum))?;
    Ok(SumCountersResponse {
        sum,
        count: found.count,
        revision: found.revision,
    })
}

/// The counters that a watch selects, and the revision that it begins after.
pub(super) fn watched(request: WatchCountersRequest) -> Result<(Watched, i64), Status> {
    let mut violations = Violations::default();
    let counters = request.counters;
    if counters.len() > MAX_BATCH {
        let problem = format!(
            "it has {} elements; expected at most {MAX_BATCH}",
            counters.len()
        );
        violations.add("counters", problem);
    }
    names(&mut violations, &counters);
    if !counters.is_empty() && !request.prefix.is_empty() {
        violations.add(
            "prefix",
            "it is given together with counters; give only one of them",
        );
    }
    violations.prefix(&request.prefix);
    if request.from_revision < 0 {
        let problem = format!("it is {}, below 0", request.from_revision);
        violations.add("from_revision", problem);
    }
    let watched = if counters.is_empty() {
        Watched::Prefix(request.prefix.into())
    } else {
        Watched::Names(counters.into_iter().map(Arc::from).collect())
    };
    Ok(violations.check((watched, request.from_revision))?)
}

/// The answer to a watch.
pub(super) fn changes(changes: Changes) -> WatchCountersResponse {
    let rows = changes.counters.iter();
    let deleted = changes.deleted.into_iter();
    WatchCountersResponse {
        counters: rows.map(|row| counter(&row.name, Some(row))).collect(),
        deleted: deleted.map(|name| name.to_string()).collect(),
        revision: changes.revision,
        synced: changes.synced,
        restarted: changes.restarted,
    }
}
