use super::super::writer::tests::batch;
use super::*;

/// The log of a batch is as long as is counted, and no bit of it can be changed without an error.
#[test]
fn every_bit_of_a_log_is_covered() {
    let hasher = KeyedHasher::new([7; 16]);
    let log = log(hasher, &batch(7, [("g/a".to_owned(), Some(1))]));
    let read = |seq, log: &[u8]| Log::new(hasher, seq, log).map(|log| log.bytes());
    assert_eq!(read(7, &log).expect("it is whole"), log.len());
    for bit in 0..8 * log.len() {
        let mut other = log.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        let told = read(7, &other);
        assert!(matches!(told, Err(Error::Corrupt(_))), "{told:?}");
    }
    for length in 1..log.len() {
        read(7, &log[..length]).expect_err("it is cut short");
    }
    read(8, &log).expect_err("it is of another batch");
}
