//! Medians of all runs on counters, as Markdown.

use sumd_benches::median;

use super::{
    curve::Point,
    drive::Run,
    idle::Idle,
    restart::{ID_MEMORY, Restart},
    works::{
        CONTENDERS, Goal, IDLE_BEYOND_MS, IDLE_FLUSHES, Kind, RESTART_SECONDS, TARGETS, Target,
        WORKS, Work,
    },
};
use crate::{
    history::{Entry, Peer},
    report::{three_digits, verdict},
};

/// Every run of every contender on every work.
#[derive(Default)]
pub struct Results {
    runs: Vec<(&'static str, &'static str, Run)>,
    idle: Vec<(&'static str, Idle)>,
    pub curve: Vec<Point>,
    pub restart: Option<Restart>,
}

impl Results {
    pub fn add(&mut self, work: &'static str, contender: &'static str, run: Run) {
        self.runs.push((work, contender, run));
    }

    pub fn add_idle(&mut self, contender: &'static str, run: Idle) {
        self.idle.push((contender, run));
    }

    /// sumd's medians on increments, with the ratio to Redis if it was measured.
    pub fn entries(&self) -> Vec<Entry> {
        let measured = WORKS.iter().filter_map(|work| {
            let (ours, peer) = match work.kind {
                Kind::Increment => ("sumd", "redis"),
                Kind::Record => ("sumd-100", "redis-100"),
                Kind::Idle | Kind::Curve | Kind::Restart => return None,
            };
            let cpu: fn(&Run) -> f64 = |run| run.figures.cpu_us;
            let cpu_us = self.of(work.name, ours, cpu)?;
            let theirs = self.of(work.name, peer, cpu);
            Some(Entry {
                work: work.name.to_owned(),
                runs: self.all(work.name, ours, cpu).len(),
                cpu_us,
                per_second: self.of(work.name, ours, |run| run.figures.sums_per_second)?,
                peer: theirs.map(|theirs| Peer {
                    name: peer,
                    ratio: cpu_us / theirs,
                }),
            })
        });
        measured.collect()
    }

    /// The median of a figure, if it was measured.
    fn of(&self, work: &str, contender: &str, figure: fn(&Run) -> f64) -> Option<f64> {
        let figures = self.all(work, contender, figure);
        (!figures.is_empty()).then(|| median(figures))
    }

    fn all(&self, work: &str, contender: &str, figure: fn(&Run) -> f64) -> Vec<f64> {
        let runs = self.runs.iter();
        let ours = runs.filter(|run| (run.0, run.1) == (work, contender));
        ours.map(|(.., run)| figure(run)).collect()
    }

    pub fn print(&self) {
        for work in &WORKS {
            self.print_work(work);
        }
        self.print_idle();
        self.print_curve();
        self.print_targets();
        self.print_restart();
    }

    fn print_work(&self, work: &Work) {
        if !self.runs.iter().any(|run| run.0 == work.name) {
            return;
        }
        println!("\n### {}: {}\n", work.name, work.heading());
        println!(
            "| server | CPU µs/increment | (least–most) | increments/s | p50 ms | p99 ms | cores busy | load's | others' | MiB idle | MiB end |"
        );
        println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
        for contender in &CONTENDERS {
            let cpu = self.all(work.name, contender.name, |run| run.figures.cpu_us);
            if cpu.is_empty() {
                continue;
            }
            let middle = |figure| median(self.all(work.name, contender.name, figure));
            println!(
                "| {} | {} | {}–{} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} |",
                contender.name,
                three_digits(median(cpu.iter().copied())),
                three_digits(cpu.iter().copied().fold(f64::INFINITY, f64::min)),
                three_digits(cpu.iter().copied().fold(0.0, f64::max)),
                middle(|run| run.figures.sums_per_second),
                middle(|run| run.figures.p50_us / 1e3),
                middle(|run| run.figures.p99_us / 1e3),
                middle(|run| run.figures.busy),
                middle(|run| run.load_busy),
                middle(|run| run.others_busy),
                middle(|run| run.figures.idle_mib),
                middle(|run| run.figures.peak_mib),
            );
        }
    }

    fn print_idle(&self) {
        let Some(work) = WORKS.iter().find(|work| work.kind == Kind::Idle) else {
            return;
        };
        if self.idle.is_empty() {
            return;
        }
        println!("\n### {}: {}\n", work.name, work.title);
        println!(
            "| server | p50 ms | p99 ms | fdatasync p50 ms | p99 ms | at most | |\n|---|--:|--:|--:|--:|--:|---|"
        );
        for contender in &CONTENDERS {
            let runs = self.idle.iter().filter(|run| run.0 == contender.name);
            let runs: Vec<_> = runs.map(|run| &run.1).collect();
            if runs.is_empty() {
                continue;
            }
            let middle = |figure: fn(&&Idle) -> f64| median(runs.iter().map(figure));
            let p50 = middle(|run| run.increments.p50_ms);
            let disk = middle(|run| run.flushes.p50_ms);
            let at_most = IDLE_FLUSHES * disk + IDLE_BEYOND_MS;
            let (at_most, verdict) = match contender.name {
                "sumd" => (format!("{at_most:.3}"), verdict(p50 <= at_most)),
                _ => (String::new(), ""),
            };
            println!(
                "| {} | {p50:.3} | {:.3} | {disk:.3} | {:.3} | {at_most} | {verdict} |",
                contender.name,
                middle(|run| run.increments.p99_ms),
                middle(|run| run.flushes.p99_ms),
            );
        }
    }

    fn print_curve(&self) {
        if self.curve.is_empty() {
            return;
        }
        println!("\n### counters-curve: sumd's CPU time an increment\n");
        println!(
            "| counters | in bulk µs | increments/s | unary µs | increments/s | MiB |\n|--:|--:|--:|--:|--:|--:|"
        );
        for point in &self.curve {
            let (record, increment) = (&point.record.figures, &point.increment.figures);
            println!(
                "| {} | {} | {:.0} | {} | {:.0} | {:.1} |",
                point.counters,
                three_digits(record.cpu_us),
                record.sums_per_second,
                three_digits(increment.cpu_us),
                increment.sums_per_second,
                increment.peak_mib,
            );
        }
    }

    fn print_targets(&self) {
        let rows: Vec<_> = TARGETS
            .iter()
            .filter_map(|target| Some((target, self.reached(target)?)))
            .collect();
        if rows.is_empty() {
            return;
        }
        println!("\n### What counters are to reach\n");
        println!("| sumd's work | | figure | to reach | |\n|---|---|--:|--:|---|");
        for (target, figure) in rows {
            let (what, bound, met) = match target.goal {
                Goal::Cpu(peer, most) => {
                    let what = format!("CPU time over that of {peer}");
                    (what, format!("at most {most:.2}"), figure <= most)
                }
                Goal::Times(peer, least) => {
                    let what = format!("increments/s over those of {peer}");
                    (what, format!("at least {least:.2}"), figure >= least)
                }
                Goal::Rate(least) => {
                    let what = "increments/s".to_owned();
                    (what, format!("at least {least:.0}"), figure >= least)
                }
            };
            println!(
                "| {} | {what} | {} | {bound} | {} |",
                target.work,
                three_digits(figure),
                verdict(met)
            );
        }
    }

    /// The ratio of the medians, or `None` if one of the two was not measured.
    fn reached(&self, target: &Target) -> Option<f64> {
        let of = |contender, figure| self.of(target.work, contender, figure);
        let ours = |figure| of("sumd", figure).or_else(|| of("sumd-100", figure));
        let cpu: fn(&Run) -> f64 = |run| run.figures.cpu_us;
        let rate: fn(&Run) -> f64 = |run| run.figures.sums_per_second;
        match target.goal {
            Goal::Cpu(peer, _) => Some(ours(cpu)? / of(peer, cpu)?),
            Goal::Times(peer, _) => Some(ours(rate)? / of(peer, rate)?),
            Goal::Rate(_) => ours(rate),
        }
    }

    fn print_restart(&self) {
        let Some(restart) = &self.restart else {
            return;
        };
        println!("\n### restart\n");
        println!(
            "| ids remembered ({}) | seconds | at most | |\n|--:|--:|--:|---|",
            ID_MEMORY.join(" ")
        );
        println!(
            "| {}{} | {:.3} | {RESTART_SECONDS} | {} |",
            restart.ids,
            if restart.full { " (full)" } else { "" },
            restart.seconds,
            verdict(restart.seconds <= RESTART_SECONDS),
        );
    }
}
