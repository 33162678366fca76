//! Numbers: how increments change them, and how they are encoded.

use super::*;
use crate::model::codec::{Reader, put_i64, put_u64};

proptest! {
    #[test]
    fn increments_are_exact_and_bounded(
        value: i64,
        delta: i64,
        min: Option<i64>,
        max: Option<i64>,
        near in -3i64..3,
        saturate: bool,
    ) {
        let on_limit = if saturate { OnLimit::Saturate } else { OnLimit::Reject };
        // Limits close to the value are the interesting ones.
        for (min, max) in [(min, max), (min.map(|_| value.saturating_add(near)), max)] {
            if min.zip(max).is_some_and(|(min, max)| min > max) {
                continue;
            }
            let limits = Limits { min, max, on_limit };
            let (low, high) = (min.unwrap_or(i64::MIN), max.unwrap_or(i64::MAX));
            let after = i128::from(value) + i128::from(delta);
            // Only a step towards a limit can pass it. A value beyond a limit may come back by any step.
            let fits = match delta.signum() {
                1 => after <= i128::from(high),
                -1 => after >= i128::from(low),
                _ => true,
            };
            match limits.add(value, delta) {
                Ok(added) => {
                    prop_assert_eq!(
                        i128::from(value) + i128::from(added.applied),
                        i128::from(added.value)
                    );
                    if fits {
                        prop_assert_eq!(added.applied, delta);
                    } else {
                        prop_assert!(saturate);
                        // A part of the delta that ends at the limit, or zero.
                        let part = added.applied;
                        prop_assert!(part == 0 || (part > 0) == (delta > 0));
                        prop_assert!(part.unsigned_abs() < delta.unsigned_abs());
                        let limit = if delta > 0 { high } else { low };
                        prop_assert!(part == 0 || added.value == limit);
                        // It is zero only if the limit was reached before.
                        let reached = if delta > 0 { value >= high } else { value <= low };
                        prop_assert!(part != 0 || reached);
                    }
                }
                Err(refusal) => {
                    prop_assert!(!fits && !saturate);
                    match refusal {
                        LimitError::Min { min: limit, .. } => prop_assert!(Some(limit) == min && after < limit.into()),
                        LimitError::Max { max: limit, .. } => prop_assert!(Some(limit) == max && after > limit.into()),
                        LimitError::OutOfRange { .. } => prop_assert!(i64::try_from(after).is_err()),
                        LimitError::Invalid(_) => prop_assert!(false, "it was valid"),
                    }
                }
            }
        }
    }

    #[test]
    fn numbers_are_read_back(unsigned: u64, signed: i64) {
        let mut bytes = Vec::new();
        put_u64(&mut bytes, unsigned);
        put_i64(&mut bytes, signed);
        let mut reader = Reader(&bytes);
        prop_assert_eq!(reader.u64().unwrap(), unsigned);
        prop_assert_eq!(reader.i64().unwrap(), signed);
        prop_assert!(reader.is_empty());
    }
}

/// An increment that leads a value back to a limit is applied, in parts or as a whole, and stops at the other limit.
#[test]
fn what_leads_back_towards_a_limit_is_made() {
    for on_limit in [OnLimit::Reject, OnLimit::Saturate] {
        let limits = Limits {
            min: Some(0),
            max: Some(400),
            on_limit,
        };
        for (value, delta, after) in [(500, -1, 499), (500, -100, 400), (500, -500, 0)] {
            let added = limits.add(value, delta).expect("it leads back");
            assert_eq!((added.value, added.applied), (after, delta));
        }
        for (value, delta, after) in [(-7, 1, -6), (-7, 407, 400), (500, 0, 500)] {
            let added = limits.add(value, delta).expect("it leads back");
            assert_eq!((added.value, added.applied), (after, delta));
        }
    }
    let reject = Limits {
        min: Some(0),
        max: Some(400),
        on_limit: OnLimit::Reject,
    };
    assert!(matches!(reject.add(500, 1), Err(LimitError::Max { .. })));
    assert!(matches!(reject.add(500, -501), Err(LimitError::Min { .. })));
    assert!(matches!(reject.add(-7, -1), Err(LimitError::Min { .. })));
    let saturate = Limits {
        on_limit: OnLimit::Saturate,
        ..reject
    };
    let applied = |value, delta| saturate.add(value, delta).expect("a part").applied;
    assert_eq!((applied(500, 1), applied(500, -501)), (0, -500));
    assert_eq!((applied(-7, -1), applied(-7, 408)), (0, 407));
}
