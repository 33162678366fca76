//! The members of a cluster: their condition, their alarms and their free space.

use futures_util::stream::{FuturesOrdered, StreamExt as _};
use tokio::time::Instant;

use super::call::Kind;
use super::{Client, Error, Host};
use crate::proto::etcd::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcd::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::etcd::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, DefragmentRequest, StatusRequest,
};

/// A member as it reports itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its cluster's id.
    pub cluster: u64,
    /// Its version; [`support`](super::support) judges it.
    pub version: String,
    /// The leader that it knows of, if any.
    pub leader: Option<u64>,
    /// The size of its database in bytes, which the quota limits.
    pub database_bytes: i64,
    /// Bytes of that in use. The rest is reused before the database grows.
    pub used_bytes: i64,
    /// The errors that it reports.
    pub errors: Vec<String>,
}

/// An alarm that a member has raised. It stays until it is disarmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The member's id.
    pub member: u64,
    /// The kind of alarm.
    pub kind: AlarmKind,
}

/// A kind of alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmKind {
    /// Its database has reached `--quota-backend-bytes`. Nothing can be written any more in the whole cluster.
    NoSpace,
    /// Its data differ from those of the others.
    Corrupt,
    /// An alarm that this client does not know.
    Other(i32),
}

impl Client {
    /// The state of each member, in the order of the endpoints. All are asked at once, on connections of their own.
    pub async fn members(&self, deadline: Instant) -> Vec<(Host, Result<Member, Error>)> {
        let hosts = self.caller.options().endpoints.iter().cloned();
        let members: FuturesOrdered<_> = hosts
            .map(async |host| (host.clone(), self.member(&host, deadline).await))
            .collect();
        members.collect().await
    }

    async fn member(&self, host: &Host, deadline: Instant) -> Result<Member, Error> {
        let send =
            |channel, request| async move { MaintenanceClient::new(channel).status(request).await };
        let status = self
            .caller
            .call_at(host, deadline, StatusRequest {}, send)
            .await?;
        let header = status.header.unwrap_or_default();
        Ok(Member {
            id: header.member_id,
            cluster: header.cluster_id,
            version: status.version,
            leader: (status.leader != 0).then_some(status.leader),
            database_bytes: status.db_size,
            used_bytes: status.db_size_in_use,
            errors: status.errors,
        })
    }

    /// The alarms of all members.
    ///
    /// # Errors
    /// Returns an error if no endpoint has answered before the deadline, or etcd refuses.
    pub async fn alarms(&self, deadline: Instant) -> Result<Vec<Alarm>, Error> {
        let request = AlarmRequest {
            action: AlarmAction::Get.into(),
            ..AlarmRequest::default()
        };
        let alarms = self.alarm(request, deadline).await?;
        Ok(alarms.iter().map(Alarm::from).collect())
    }

    /// Disarms an alarm: NOSPACE once there is room again.
    ///
    /// # Errors
    /// Returns an error if no endpoint has answered before the deadline, or etcd refuses.
    pub async fn disarm(&self, alarm: Alarm, deadline: Instant) -> Result<(), Error> {
        let request = AlarmRequest {
            action: AlarmAction::Deactivate.into(),
            member_id: alarm.member,
            alarm: match alarm.kind {
                AlarmKind::NoSpace => AlarmType::Nospace.into(),
                AlarmKind::Corrupt => AlarmType::Corrupt.into(),
                AlarmKind::Other(kind) => kind,
            },
        };
        self.alarm(request, deadline).await.map(drop)
    }

    async fn alarm(
        &self,
        request: AlarmRequest,
        deadline: Instant,
    ) -> Result<Vec<AlarmMember>, Error> {
        let send =
            |channel, request| async move { MaintenanceClient::new(channel).alarm(request).await };
        let answer = self.caller.call(Kind::Repeatable, deadline, request, send);
        Ok(answer.await?.alarms)
    }

    /// Defragments a member, which returns free space to its disk. It does nothing else meanwhile.
    ///
    /// # Errors
    /// Returns an error if the member cannot be reached, refuses, or takes too long. In the last case it goes on all
    /// the same.
    pub async fn defragment(&self, host: &Host, deadline: Instant) -> Result<(), Error> {
        let send = |channel, request| async move {
            MaintenanceClient::new(channel).defragment(request).await
        };
        self.caller
            .call_at(host, deadline, DefragmentRequest {}, send)
            .await
            .map(drop)
    }
}

impl From<&AlarmMember> for Alarm {
    fn from(alarm: &AlarmMember) -> Self {
        let kind = match alarm.alarm() {
            AlarmType::Nospace => AlarmKind::NoSpace,
            AlarmType::Corrupt => AlarmKind::Corrupt,
            AlarmType::None => AlarmKind::Other(alarm.alarm),
        };
        Self {
            member: alarm.member_id,
            kind,
        }
    }
}
