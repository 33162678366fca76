//! The read methods.

use std::sync::Arc;

use super::convert::Violations;
use super::error::Error;
use super::page_token;
use super::service::Counters;
use crate::proto::sum::v1::{
    BatchGetCountersRequest, BatchGetCountersResponse, Consistency, Counter, GetCounterRequest,
    GetCounterResponse, ListCountersRequest, ListCountersResponse, SumCountersRequest,
    SumCountersResponse,
};
use crate::store::{Row, Rows, Scan};

/// Number of counters in a page if the client does not set it.
const DEFAULT_PAGE: usize = 100;
/// Maximum number of counters in a page.
const MAX_PAGE: usize = 1000;

/// A counter in an answer. One that does not exist has the value 0 and the revision 0.
pub(super) fn counter(name: &str, row: Option<&Row>) -> Counter {
    let there = row.and_then(|row| Some((row.value?, row.revision)));
    let (value, revision) = there.unwrap_or((0, 0));
    Counter {
        name: name.to_owned(),
        value,
        revision,
    }
}

/// The minimum freshness of a read.
enum Wanted {
    Newest,
    NotBefore(i64),
}

fn wanted(violations: &mut Violations, consistency: i32, min_revision: i64) -> Wanted {
    if min_revision < 0 {
        violations.add("min_revision", format!("it is {min_revision}, below 0"));
    }
    match Consistency::try_from(consistency) {
        Ok(Consistency::Unspecified | Consistency::Linearizable) => Wanted::Newest,
        Ok(Consistency::StaleOk) => Wanted::NotBefore(min_revision),
        Err(_) => {
            let problem = format!(
                "it is {consistency}; expected CONSISTENCY_LINEARIZABLE or CONSISTENCY_STALE_OK"
            );
            violations.add("consistency", problem);
            Wanted::Newest
        }
    }
}

async fn read(service: &Counters, names: Vec<Arc<str>>, wanted: Wanted) -> Result<Rows, Error> {
    let rows = match wanted {
        Wanted::NotBefore(revision) if service.store().capabilities().is_shared => {
            let read = |names| service.store().read(names);
            service.stale().read(names, revision, read).await
        }
        // A store that is not shared is in this process, so it needs no cache.
        Wanted::Newest | Wanted::NotBefore(_) => service.store().read(names).await,
    };
    rows.map_err(Error::of_read)
}

impl Counters {
    /// Reads a counter.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if the request is invalid, or the store's error if it cannot be read.
    pub async fn get(&self, request: GetCounterRequest) -> Result<GetCounterResponse, Error> {
        let mut violations = Violations::default();
        violations.name("counter", &request.counter);
        let wanted = wanted(&mut violations, request.consistency, request.min_revision);
        let name = violations.check(request.counter)?;
        let rows = read(self, vec![name.as_str().into()], wanted).await;
        let rows = rows?.rows;
        let row = rows.first().and_then(Option::as_ref);
        Ok(GetCounterResponse {
            counter: Some(counter(&name, row)),
        })
    }

    /// Reads several counters, at one revision.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if the request is invalid, or the store's error if it cannot be read.
    pub async fn batch_get(
        &self,
        request: BatchGetCountersRequest,
    ) -> Result<BatchGetCountersResponse, Error> {
        let mut violations = Violations::default();
        violations.count("counters", request.counters.len());
        for (index, name) in request
            .counters
            .iter()
            .enumerate()
            .take(super::convert::MAX_BATCH)
        {
            violations.name(&format!("counters[{index}]"), name);
        }
        let wanted = wanted(&mut violations, request.consistency, request.min_revision);
        let names = violations.check(request.counters)?;
        let all = names.iter().map(|name| name.as_str().into()).collect();
        let rows = read(self, all, wanted).await?.rows;
        let pairs = names.iter().zip(&rows);
        Ok(BatchGetCountersResponse {
            counters: pairs
                .map(|(name, row)| counter(name, row.as_ref()))
                .collect(),
        })
    }

    /// Reads a page of counters.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if the request is invalid, or the store's error if it cannot be read.
    pub async fn list(&self, request: ListCountersRequest) -> Result<ListCountersResponse, Error> {
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
            match page_token::decode(self.hasher, &request.prefix, &request.page_token) {
                Some(last) => after = Some(last.into()),
                None => violations.add(
                    "page_token",
                    "it is not the next_page_token of a list with this prefix",
                ),
            }
        }
        let prefix = violations.check(request.prefix)?;

        let mut rows: Vec<Row> = Vec::new();
        // One more than the page size shows whether there is a next page.
        while rows.len() <= size {
            let scan = Scan {
                prefix: prefix.as_str().into(),
                after,
                since: 0,
                limit: size + 1 - rows.len(),
            };
            let page = self.store().scan(scan).await.map_err(Error::of_read)?;
            rows.extend(page.rows);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let more = rows.len() > size;
        rows.truncate(size);
        let last = rows.last().filter(|_| more);
        Ok(ListCountersResponse {
            next_page_token: last.map_or_else(String::new, |last| {
                page_token::encode(self.hasher, &prefix, &last.name)
            }),
            counters: rows
                .iter()
                .map(|row| counter(&row.name, Some(row)))
                .collect(),
        })
    }

    /// Sums the counters with a prefix.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if the request is invalid, [`Error::SumOutOfRange`] if the sum does not fit int64, or
    /// the store's error if it cannot be read.
    pub async fn sum(&self, request: SumCountersRequest) -> Result<SumCountersResponse, Error> {
        let mut violations = Violations::default();
        violations.prefix(&request.prefix);
        let prefix = violations.check(request.prefix)?;
        let found = self.store().sum(prefix.into()).await;
        let found = found.map_err(Error::of_read)?;
        let sum = i64::try_from(found.sum).map_err(|_| Error::SumOutOfRange(found.sum))?;
        Ok(SumCountersResponse {
            sum,
            count: found.count,
            revision: found.revision,
        })
    }
}
