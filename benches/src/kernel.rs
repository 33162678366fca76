//! Sums packed varints in this process: prost's decoding loop against sumd's kernel.

use std::{hint::black_box, time::Instant};

use bytes::{Buf as _, Bytes};
use clap::Parser;
use fastrand::Rng;
use prost::encoding::{decode_key, decode_varint};
use sumd::sum::wire::MessageSum;
use sumd_benches::{median, message, values};

/// As many values as in the largest message of the bench: 1 to 10 MB, more than a core's own caches hold.
const VALUES: usize = 1_000_000;
const SEED: u64 = 1;

/// The project's target for values of up to 31 bits: the kernel's time over prost's.
const TARGET: f64 = 0.15;

const WIDTHS: [(&str, u32, Option<f64>); 4] = [
    ("1 byte", 7, None),
    ("up to 20 bits", 20, None),
    ("up to 31 bits", 31, Some(TARGET)),
    ("uniform 64 bits", 64, None),
];

/// Compares the kernel that sums varints with a loop over prost's `decode_varint`.
#[derive(Parser)]
struct Options {
    /// Runs of each, interleaved; medians are printed
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

fn main() {
    let options = Options::parse();
    println!("\n### kernel: {VALUES} values summed in one process\n");
    println!("| values | prost GB/s | sumd GB/s | sumd's time / prost's | target | |");
    println!("|---|--:|--:|--:|--:|---|");
    for (name, bits, target) in WIDTHS {
        let message = message(&values(&mut Rng::with_seed(SEED), VALUES, bits));
        let (prost, sumd) = compare(&message, options.runs);
        let ratio = sumd / prost;
        let (target, verdict) = match target {
            Some(target) if ratio <= target => (format!("{target:.2}"), "met"),
            Some(target) => (format!("{target:.2}"), "missed"),
            None => (String::new(), ""),
        };
        #[allow(clippy::cast_precision_loss)]
        let rate = |seconds: f64| message.len() as f64 / seconds / 1e9;
        println!(
            "| {name} | {:.2} | {:.2} | {ratio:.3} | {target} | {verdict} |",
            rate(prost),
            rate(sumd),
        );
    }
}

/// The median seconds that prost's loop and sumd's kernel take to sum `message`.
fn compare(message: &Bytes, runs: u32) -> (f64, f64) {
    assert_eq!(prost_sum(message), sumd_sum(message), "the sums differ");
    let timed = |sum: fn(&[u8]) -> i128| {
        let start = Instant::now();
        black_box(sum(black_box(message)));
        start.elapsed().as_secs_f64()
    };
    let (prost, sumd): (Vec<f64>, Vec<f64>) = (0..runs)
        .map(|_| (timed(prost_sum), timed(sumd_sum)))
        .unzip();
    (median(prost), median(sumd))
}

fn prost_sum(mut message: &[u8]) -> i128 {
    decode_key(&mut message).expect("a key");
    decode_varint(&mut message).expect("a length");
    let mut sum = 0;
    while message.has_remaining() {
        let value = decode_varint(&mut message).expect("a varint");
        sum += i128::from(value.cast_signed());
    }
    sum
}

/// sumd's own code from the bytes of a message to its sum.
fn sumd_sum(message: &[u8]) -> i128 {
    let mut sum = MessageSum::default();
    sum.feed(message).expect("a message");
    sum.finish().expect("a whole message").sum
}
