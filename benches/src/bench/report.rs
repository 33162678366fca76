//! Medians of all runs, as Markdown.

use sumd_benches::median;

use crate::{
    history::{Entry, Peer},
    measure::Measurement,
    works::{MEMORY_WORKS, SERVERS, SUMD, TARGETS, Target, WORKS, Work},
};

/// Every run of every server on every work.
#[derive(Default)]
pub struct Results {
    runs: Vec<(&'static str, &'static str, Measurement)>,
    memory: Vec<(&'static str, f64)>,
}

impl Results {
    pub fn add(&mut self, work: &'static str, server: &'static str, run: Measurement) {
        self.runs.push((work, server, run));
    }

    pub fn add_memory(&mut self, work: &'static str, mib: f64) {
        self.memory.push((work, mib));
    }

    /// sumd's medians, with the first ratio of each work.
    pub fn entries(&self) -> Vec<Entry> {
        let measured = WORKS.iter().filter_map(|work| {
            let cpu = self.of(work.name, SUMD.name, |run| run.cpu_us);
            if cpu.is_empty() {
                return None;
            }
            let mut targets = TARGETS.iter().filter(|target| target.work == work.name);
            let ratio = targets.find_map(|target| self.ratio(target));
            Some(Entry {
                work: work.name.to_owned(),
                runs: cpu.len(),
                cpu_us: median(cpu),
                per_second: median(self.of(work.name, SUMD.name, |run| run.sums_per_second)),
                peer: ratio.map(|(target, ratio)| Peer {
                    name: target.peer,
                    ratio,
                }),
            })
        });
        measured.collect()
    }

    fn of(&self, work: &str, server: &str, figure: fn(&Measurement) -> f64) -> Vec<f64> {
        let ours = self
            .runs
            .iter()
            .filter(|run| (run.0, run.1) == (work, server));
        ours.map(|(.., run)| figure(run)).collect()
    }

    pub fn print(&self) {
        for work in &WORKS {
            self.print_work(work);
        }
        self.print_ratios();
        self.print_memory();
    }

    fn print_work(&self, work: &Work) {
        if !self.runs.iter().any(|run| run.0 == work.name) {
            return;
        }
        println!("\n### {}: {}\n", work.name, work.title);
        println!(
            "| server | CPU µs/sum | (least–most) | sums/s | p50 ms | p99 ms | core busy | MiB idle | MiB peak |"
        );
        println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|");
        for server in &SERVERS {
            let cpu = self.of(work.name, server.name, |run| run.cpu_us);
            if cpu.is_empty() {
                continue;
            }
            let middle = |figure| median(self.of(work.name, server.name, figure));
            println!(
                "| {} | {} | {}–{} | {:.0} | {:.2} | {:.2} | {:.0} % | {:.1} | {:.1} |",
                server.name,
                three_digits(median(cpu.iter().copied())),
                three_digits(cpu.iter().copied().fold(f64::INFINITY, f64::min)),
                three_digits(cpu.iter().copied().fold(0.0, f64::max)),
                middle(|run| run.sums_per_second),
                middle(|run| run.p50_us / 1e3),
                middle(|run| run.p99_us / 1e3),
                middle(|run| run.busy * 100.0),
                middle(|run| run.idle_mib),
                middle(|run| run.peak_mib),
            );
        }
    }

    fn print_ratios(&self) {
        let rows: Vec<_> = TARGETS
            .iter()
            .filter_map(|target| self.ratio(target))
            .collect();
        if rows.is_empty() {
            return;
        }
        println!("\n### Ratios of server CPU time a sum\n");
        println!("| sumd's work | against | ratio | at most | |");
        println!("|---|---|--:|--:|---|");
        for (target, ratio) in rows {
            println!(
                "| {} | {} {} | {ratio:.3} | {:.2} | {} |",
                target.work,
                target.peer,
                target.peer_work,
                target.at_most,
                verdict(ratio <= target.at_most),
            );
        }
    }

    /// The ratio of the medians, or `None` if one of the two was not measured.
    fn ratio<'a>(&self, target: &'a Target) -> Option<(&'a Target, f64)> {
        let ours = self.of(target.work, SUMD.name, |run| run.cpu_us);
        let theirs = self.of(target.peer_work, target.peer, |run| run.cpu_us);
        let measured = !ours.is_empty() && !theirs.is_empty();
        measured.then(|| (target, median(ours) / median(theirs)))
    }

    fn print_memory(&self) {
        if self.memory.is_empty() {
            return;
        }
        println!("\n### sumd's memory\n");
        println!("| | MiB | at most | |");
        println!("|---|--:|--:|---|");
        for work in &MEMORY_WORKS {
            let runs = self.memory.iter().filter(|run| run.0 == work.name);
            let runs: Vec<f64> = runs.map(|run| run.1).collect();
            if !runs.is_empty() {
                let mib = median(runs);
                println!(
                    "| {}: {} | {mib:.1} | {} | {} |",
                    work.name,
                    work.title,
                    work.at_most_mib,
                    verdict(mib <= work.at_most_mib),
                );
            }
        }
    }
}

pub fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "**missed**" }
}

/// A figure from 0.1 to 100,000, with as many decimals as a reader needs.
pub fn three_digits(figure: f64) -> String {
    match figure {
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        1.0.. => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}
