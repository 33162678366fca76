//! The cost of an increment as something grows: nodes, lanes in use, counters, or remembered ids.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use super::{
    Programs, drive,
    system::{Figures, System},
    works::{
        CURVE_COUNTERS, CURVE_IDS, CURVE_LANES, CURVE_MEMBERS, CURVE_NODES, Load, NODES, bulk,
        unary,
    },
};
use crate::counters::encode::{GROUP_EACH, Layout, ONE_GROUP};

/// Maximum time for adding ids; if it is not enough, the curve ends.
const FILLING: Duration = Duration::from_secs(300);

/// Interval at which the number of added ids is checked.
const FILLING_TURN: Duration = Duration::from_secs(5);

/// A point of a curve.
pub struct Point {
    /// The quantity that grows, and its value.
    pub over: &'static str,
    pub count: u64,
    pub work: &'static str,
    pub figures: Figures,
}

/// Adds the points as they are measured, so that those of an interrupted curve are kept.
pub async fn measure(programs: &Programs, window: Duration, points: &mut Vec<Point>) -> Result<()> {
    let mut curve = Curve {
        programs,
        window,
        points,
    };
    curve.nodes().await.context("nodes")?;
    curve.lanes().await.context("lanes")?;
    for (over, layout) in [
        ("counters of one group", ONE_GROUP),
        ("counters, a group each", GROUP_EACH),
    ] {
        curve.counters(over, layout).await.context(over)?;
    }
    curve.ids().await.context("ids")
}

struct Curve<'a> {
    programs: &'a Programs,
    window: Duration,
    points: &'a mut Vec<Point>,
}

impl Curve<'_> {
    async fn nodes(&mut self) -> Result<()> {
        for nodes in CURVE_NODES {
            let mut system = self.system(nodes).await?;
            for (work, load) in [
                ("one counter", unary(ONE_GROUP, 1)),
                ("1,000 groups", unary(GROUP_EACH, 1_000)),
            ] {
                self.point(&mut system, "nodes", nodes as u64, work, load)
                    .await?;
            }
            system.finish().await?;
        }
        Ok(())
    }

    async fn lanes(&mut self) -> Result<()> {
        for lanes in CURVE_LANES {
            let mut system =
                System::start(self.programs, CURVE_MEMBERS, NODES, Some(lanes)).await?;
            for (work, load) in [
                ("one counter", unary(ONE_GROUP, 1)),
                ("1,000 groups", unary(GROUP_EACH, 1_000)),
                ("10,000 groups, in bulk", bulk(GROUP_EACH, 10_000)),
            ] {
                self.point(&mut system, "lanes", lanes.into(), work, load)
                    .await?;
            }
            system.finish().await?;
        }
        Ok(())
    }

    async fn counters(&mut self, over: &'static str, layout: Layout) -> Result<()> {
        let mut system = self.system(NODES).await?;
        let mut created = 0;
        for counters in CURVE_COUNTERS {
            drive::create(&mut system, layout, created, counters).await?;
            created = counters;
            for (work, load) in [
                ("unary", unary(layout, counters)),
                ("in bulk", bulk(layout, counters)),
            ] {
                self.point(&mut system, over, counters.into(), work, load)
                    .await?;
            }
        }
        system.finish().await
    }

    /// All ids are in one lane.
    async fn ids(&mut self) -> Result<()> {
        let mut system = self.system(NODES).await?;
        let load = unary(ONE_GROUP, 1);
        let end = Instant::now() + FILLING;
        for ids in CURVE_IDS {
            while system.nodes.acknowledged < ids && Instant::now() < end {
                drive::closed(&mut system, load, FILLING_TURN).await?;
            }
            let given = system.nodes.acknowledged;
            let over = "ids given before";
            self.point(&mut system, over, given, "one counter", load)
                .await?;
            if given < ids {
                break;
            }
        }
        system.finish().await
    }

    async fn system(&self, nodes: usize) -> Result<System> {
        System::start(self.programs, CURVE_MEMBERS, nodes, None).await
    }

    async fn point(
        &mut self,
        system: &mut System,
        over: &'static str,
        count: u64,
        work: &'static str,
        load: Load,
    ) -> Result<()> {
        let figures = drive::closed(system, load, self.window).await?;
        eprintln!(
            "cluster-curve, {count} {over}, {work}: {:.0}/s, {:.1} µs",
            figures.per_second, figures.cpu_us
        );
        self.points.push(Point {
            over,
            count,
            work,
            figures,
        });
        Ok(())
    }
}
