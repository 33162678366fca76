//! Medians of all runs on a cluster, as Markdown.

use sumd_benches::median;

use super::{
    curve::Point,
    system::Figures,
    works::{ADDS, CURVE_MEMBERS, Goal, Kind, PEERS, SIZES, TARGETS, Target, WORKS},
};
use crate::{
    history::Entry,
    report::{three_digits, verdict},
};

/// Every run of every work and peer on every size of etcd.
#[derive(Default)]
pub struct Results {
    runs: Vec<(usize, &'static str, Figures)>,
    pub curve: Vec<Point>,
}

impl Results {
    pub fn add(&mut self, members: usize, work: &'static str, run: Figures) {
        self.runs.push((members, work, run));
    }

    /// sumd's medians. Nothing that etcd does alone costs CPU time for the same work.
    pub fn entries(&self) -> Vec<Entry> {
        let works = SIZES.into_iter().flat_map(|members| {
            let works = WORKS.iter().map(|work| work.name).chain(ADDS);
            works.map(move |work| (members, work))
        });
        let entry = |(members, work)| {
            let runs = self.all(members, work, |run| run.per_second);
            Some(Entry {
                work: format!("{} etcd-{members}", work.replace(',', "")),
                runs: runs.len(),
                cpu_us: self.of(members, work, |run| run.cpu_us)?,
                per_second: median(runs),
                peer: None,
            })
        };
        works.filter_map(entry).collect()
    }

    /// The figure in all runs.
    fn all(&self, members: usize, work: &str, figure: fn(&Figures) -> f64) -> Vec<f64> {
        let runs = self.runs.iter();
        let ours = runs.filter(|run| (run.0, run.1) == (members, work));
        ours.map(|(.., run)| figure(run)).collect()
    }

    /// Its median, if the work was measured.
    fn of(&self, members: usize, work: &str, figure: fn(&Figures) -> f64) -> Option<f64> {
        let figures = self.all(members, work, figure);
        (!figures.is_empty()).then(|| median(figures))
    }

    pub fn print(&self) {
        for members in SIZES {
            self.print_size(members);
        }
        self.print_curve();
        self.print_targets();
    }

    fn print_size(&self, members: usize) {
        if !self.runs.iter().any(|run| run.0 == members) {
            return;
        }
        println!("\n### cluster: etcd of {}\n", title(members));
        println!(
            "| work | increments/s | (least–most) | p50 ms | p99 ms | CPU µs/increment | CPU s etcd | nodes | load | others | nodes MiB | etcd's database MiB |"
        );
        println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
        let peers = PEERS.iter().map(|peer| peer.name);
        let works = WORKS.iter().filter(|work| !matches!(work.kind, Kind::Adds));
        let works = works.map(|work| work.name);
        for name in peers.chain(works).chain(ADDS) {
            self.print_row(members, name);
        }
    }

    fn print_row(&self, members: usize, name: &str) {
        let rates = self.all(members, name, |run| run.per_second);
        if rates.is_empty() {
            return;
        }
        let middle = |figure| median(self.all(members, name, figure));
        println!(
            "| {name} | {:.0} | {:.0}–{:.0} | {:.2} | {:.2} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} |",
            median(rates.iter().copied()),
            rates.iter().copied().fold(f64::INFINITY, f64::min),
            rates.iter().copied().fold(0.0, f64::max),
            middle(|run| run.p50_ms),
            middle(|run| run.p99_ms),
            three_digits(middle(|run| run.cpu_us)),
            middle(|run| run.etcd_seconds),
            middle(|run| run.nodes_seconds),
            middle(|run| run.load_seconds),
            middle(|run| run.others_seconds),
            middle(|run| run.nodes_mib),
            middle(|run| run.database_mib),
        );
    }

    fn print_curve(&self) {
        for series in self.curve.chunk_by(|a, b| a.over == b.over) {
            let over = series[0].over;
            println!(
                "\n### cluster-curve: {over}, etcd of {}\n",
                title(CURVE_MEMBERS)
            );
            println!(
                "| {over} | work | increments/s | p50 ms | p99 ms | CPU µs/increment | CPU s etcd | nodes | load | nodes MiB | etcd's database MiB |"
            );
            println!("|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
            for point in series {
                let figures = &point.figures;
                println!(
                    "| {} | {} | {:.0} | {:.2} | {:.2} | {} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} |",
                    point.count,
                    point.work,
                    figures.per_second,
                    figures.p50_ms,
                    figures.p99_ms,
                    three_digits(figures.cpu_us),
                    figures.etcd_seconds,
                    figures.nodes_seconds,
                    figures.load_seconds,
                    figures.nodes_mib,
                    figures.database_mib,
                );
            }
        }
    }

    fn print_targets(&self) {
        let mut rows = Vec::new();
        for target in &TARGETS {
            for members in SIZES {
                rows.extend(self.row(target, members));
            }
        }
        // The target is that none of them failed.
        for members in SIZES {
            let [_, down] = ADDS;
            let rate = self.of(members, down, |run| run.per_second);
            rows.extend(rate.map(|rate| {
                format!(
                    "| {down} | {members} | sums/s | {rate:.0} | serves | {} |",
                    verdict(true)
                )
            }));
        }
        if rows.is_empty() {
            return;
        }
        println!("\n### What a cluster is to reach\n");
        println!(
            "| sumd's work | etcd's members | | figure | to reach | |\n|---|--:|---|--:|--:|---|"
        );
        for row in rows {
            println!("{row}");
        }
    }

    /// A row with the ratio of the medians, or `None` if one of the two was not measured.
    fn row(&self, target: &Target, members: usize) -> Option<String> {
        let peers = |figure| {
            let peers = target.peers.iter();
            peers.filter_map(move |peer| self.of(members, peer, figure))
        };
        let (what, figure, bound, met) = match target.goal {
            Goal::Times(least) => {
                let ours = self.of(members, target.work, |run| run.per_second)?;
                let theirs = peers(|run| run.per_second).reduce(f64::max)?;
                let what = "increments/s over those of";
                let times = ours / theirs;
                (what, times, format!("at least {least:.0}"), times >= least)
            }
            Goal::Latency(most) => {
                let ours = self.of(members, target.work, |run| run.p99_ms)?;
                let theirs = peers(|run| run.p50_ms).reduce(f64::min)?;
                let times = ours / theirs;
                let what = "p99 over the p50 of";
                (what, times, format!("at most {most:.0}"), times <= most)
            }
        };
        Some(format!(
            "| {} | {members} | {what} {} | {} | {bound} | {} |",
            target.work,
            target.against,
            three_digits(figure),
            verdict(met),
        ))
    }
}

fn title(members: usize) -> String {
    match members {
        1 => "one member".to_owned(),
        _ => format!("{members} members"),
    }
}
