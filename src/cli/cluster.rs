//! `sumd cluster`: the nodes of a cluster.

use crate::config::{ClusterCommand, StatusOptions};
use crate::proto::sum::v1::cluster_service_client::ClusterServiceClient;
use crate::proto::sum::v1::{ListNodesRequest, ListNodesResponse, Node, NodeClock, NodeHealth};

use super::client::{ClientError, in_time};

const HEADS: [&str; 7] = [
    "ID", "ADDRESS", "VERSION", "STARTED", "LANES", "HEALTH", "CLOCK",
];

/// Runs a command and returns the lines to print.
///
/// # Errors
/// Returns an error if the server cannot be reached, is too slow, or refuses.
pub async fn cluster(command: ClusterCommand) -> Result<Vec<String>, ClientError> {
    let ClusterCommand::Status(StatusOptions { server }) = command;
    in_time(&server, async |channel| {
        let mut client = ClusterServiceClient::new(channel);
        let answer = client.list_nodes(ListNodesRequest {}).await?;
        Ok(table(&answer.into_inner()))
    })
    .await
}

/// A table with a header and a line for each node, and a summary line below it.
fn table(answer: &ListNodesResponse) -> Vec<String> {
    let rows: Vec<_> = std::iter::once(HEADS.map(str::to_owned))
        .chain(answer.nodes.iter().map(row))
        .collect();
    let mut widths = [0; HEADS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; HEADS.len()]| {
        let cells = row.iter().zip(widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    let mut lines: Vec<_> = rows.iter().map(line).collect();
    let owned: u32 = answer.nodes.iter().map(|node| node.lanes).sum();
    lines.push(format!(
        "{owned} of {} lanes are owned, at revision {}",
        answer.total_lanes, answer.revision
    ));
    lines
}

fn row(node: &Node) -> [String; HEADS.len()] {
    let clock = NodeClock::try_from(node.clock).unwrap_or_default();
    let clock = clock.as_str_name().trim_start_matches("NODE_CLOCK_");
    let health = NodeHealth::try_from(node.health).unwrap_or_default();
    let health = health.as_str_name().trim_start_matches("NODE_HEALTH_");
    // Whole seconds are precise enough here.
    let started = node.start_time.map(|time| prost_types::Timestamp {
        seconds: time.seconds,
        nanos: 0,
    });
    [
        node.id.clone(),
        node.address.clone(),
        node.version.clone(),
        started.map(|time| time.to_string()).unwrap_or_default(),
        node.lanes.to_string(),
        health.to_owned(),
        clock.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_columns() {
        let node = |id: &str, lanes, health: NodeHealth, clock: NodeClock| Node {
            id: id.to_owned(),
            address: "10.0.0.1:8080".to_owned(),
            version: "0.1.0".to_owned(),
            start_time: Some(prost_types::Timestamp {
                seconds: 1_795_000_000,
                nanos: 5,
            }),
            lanes,
            health: health.into(),
            clock: clock.into(),
        };
        let lines = table(&ListNodesResponse {
            nodes: vec![
                node("sumd-0", 256, NodeHealth::Serving, NodeClock::Agrees),
                node(
                    "a-node-of-a-long-name",
                    0,
                    NodeHealth::Draining,
                    NodeClock::BehindHorizon,
                ),
            ],
            total_lanes: 256,
            revision: 12,
        });
        let expected = [
            "ID                     ADDRESS        VERSION  STARTED               LANES  HEALTH    CLOCK",
            "sumd-0                 10.0.0.1:8080  0.1.0    2026-11-18T11:06:40Z  256    SERVING   AGREES",
            "a-node-of-a-long-name  10.0.0.1:8080  0.1.0    2026-11-18T11:06:40Z  0      DRAINING  BEHIND_HORIZON",
            "256 of 256 lanes are owned, at revision 12",
        ];
        assert_eq!(lines, expected);
    }
}
