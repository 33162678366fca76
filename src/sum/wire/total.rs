//! Sums that cannot overflow.

/// An exact sum, and the number of its values.
///
/// 2^64 values of 64 bits fit 128 bits, so adding never overflows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// The sum, exact.
    pub sum: i128,
    /// The number of values.
    pub count: u64,
}

impl Total {
    pub(super) fn add_value(&mut self, varint: u64) {
        // An int64 is sent as the 64 bits of its two's complement.
        self.sum += i128::from(varint.cast_signed());
        self.count += 1;
    }
}

impl std::ops::AddAssign for Total {
    fn add_assign(&mut self, other: Self) {
        self.sum += other.sum;
        self.count += other.count;
    }
}
