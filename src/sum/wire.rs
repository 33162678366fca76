//! The sum of a message's `values`, taken from its bytes as they arrive: nothing is decoded into memory, whatever the
//! size of the message and wherever it is cut.
//!
//! It accepts and refuses the same messages as prost does with `message { repeated int64 values = 1; }`: packed,
//! unpacked and mixed encodings, and unknown fields of every wire type. See
//! <https://protobuf.dev/programming-guides/encoding/>.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod malformed;
mod packed;
mod total;
mod varint;

use malformed::MAX_GROUP_DEPTH;
pub use malformed::Malformed;
pub use total::Total;
use varint::Varint;

/// The number of the field that holds the values.
const VALUES_FIELD: u32 = 1;

/// The position of the next byte in a message.
#[derive(Clone, Copy)]
enum State {
    /// In a field's key.
    Key,
    /// In a value that is not packed.
    Value,
    /// In the length of a packed run of values.
    PackedLength,
    /// In a packed run, with this number of bytes to come.
    Packed(u64),
    /// In an unknown field's varint.
    UnknownVarint,
    /// In the length of an unknown field.
    UnknownLength,
    /// In an unknown field, with this number of bytes to come.
    Unknown(u64),
}

/// The sum of the `values` of one message, whose bytes may come in any number of pieces.
pub struct MessageSum {
    total: Total,
    state: State,
    /// The varint that the last piece has cut.
    varint: Varint,
    /// The field numbers of the open unknown groups.
    groups: Vec<u32>,
}

impl Default for MessageSum {
    fn default() -> Self {
        Self {
            total: Total::default(),
            state: State::Key,
            varint: Varint::default(),
            groups: Vec::new(),
        }
    }
}

/// The sum of a message that is taken to its end, although it may be malformed.
#[derive(Default)]
pub struct WholeSum {
    sum: MessageSum,
    problem: Option<Malformed>,
}

impl WholeSum {
    /// Takes the message's next bytes. Returns whether the message may still have a sum.
    pub fn feed(&mut self, bytes: &[u8]) -> bool {
        if self.problem.is_none() {
            self.problem = self.sum.feed(bytes).err();
        }
        self.problem.is_none()
    }

    /// Returns the sum, once the whole message was fed.
    ///
    /// # Errors
    /// Returns the first error of [`MessageSum`].
    pub fn finish(self) -> Result<Total, Malformed> {
        match self.problem {
            Some(problem) => Err(problem),
            None => self.sum.finish(),
        }
    }
}

impl MessageSum {
    /// Takes the message's next bytes. After an error the message has no sum: feed no more.
    ///
    /// # Errors
    /// Returns [`Malformed`] as soon as the bytes so far cannot begin a message.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            match self.state {
                State::Packed(left) => {
                    let (run, rest) = split(bytes, left);
                    bytes = rest;
                    self.feed_packed(run)?;
                    self.state = match left - run.len() as u64 {
                        0 if self.varint.is_partial() => return Err(Malformed::Truncated),
                        0 => State::Key,
                        left => State::Packed(left),
                    };
                }
                State::Unknown(left) => {
                    let (skipped, rest) = split(bytes, left);
                    bytes = rest;
                    self.state = after_length(left - skipped.len() as u64, State::Unknown);
                }
                state => {
                    let Some(varint) = self.varint.take(&mut bytes)? else {
                        return Ok(());
                    };
                    self.state = match state {
                        State::Key => self.field(varint)?,
                        State::PackedLength => after_length(varint, State::Packed),
                        State::UnknownLength => after_length(varint, State::Unknown),
                        State::Value => {
                            self.total.add_value(varint);
                            State::Key
                        }
                        _ => State::Key,
                    };
                }
            }
        }
        Ok(())
    }

    /// Returns the sum, once the whole message was fed.
    ///
    /// # Errors
    /// Returns [`Malformed::Truncated`] if the message ends inside a field or a group.
    pub fn finish(self) -> Result<Total, Malformed> {
        match self.state {
            State::Key if !self.varint.is_partial() && self.groups.is_empty() => Ok(self.total),
            _ => Err(Malformed::Truncated),
        }
    }

    /// The state after a field's key.
    fn field(&mut self, key: u64) -> Result<State, Malformed> {
        let number = match u32::try_from(key) {
            Ok(key) if key >> 3 > 0 => key >> 3,
            _ => return Err(Malformed::Key(key)),
        };
        let wire_type = (key & 7) as u8;
        if wire_type > 5 {
            return Err(Malformed::Key(key));
        }
        if number == VALUES_FIELD && self.groups.is_empty() {
            return match wire_type {
                0 => Ok(State::Value),
                2 => Ok(State::PackedLength),
                other => Err(Malformed::ValuesWireType(other)),
            };
        }
        if wire_type != 4 && self.groups.len() >= MAX_GROUP_DEPTH {
            return Err(Malformed::GroupsTooDeep);
        }
        match wire_type {
            0 => Ok(State::UnknownVarint),
            1 => Ok(State::Unknown(8)),
            2 => Ok(State::UnknownLength),
            3 => {
                self.groups.push(number);
                Ok(State::Key)
            }
            4 if self.groups.pop() == Some(number) => Ok(State::Key),
            4 => Err(Malformed::UnexpectedEndGroup),
            _ => Ok(State::Unknown(4)),
        }
    }

    fn feed_packed(&mut self, mut run: &[u8]) -> Result<(), Malformed> {
        if self.varint.is_partial() {
            match self.varint.take(&mut run)? {
                Some(value) => self.total.add_value(value),
                None => return Ok(()),
            }
        }
        let end = run
            .iter()
            .rposition(|&byte| byte < 0x80)
            .map_or(0, |i| i + 1);
        let (whole, mut cut) = run.split_at(end);
        self.total += packed::sum(whole)?;
        self.varint.take(&mut cut)?;
        Ok(())
    }
}

/// The state at the start of a field's content of `length` bytes. An empty one has ended already.
fn after_length(length: u64, content: fn(u64) -> State) -> State {
    if length == 0 {
        State::Key
    } else {
        content(length)
    }
}

/// The first `length` bytes, or all bytes if there are fewer, and the rest.
fn split(bytes: &[u8], length: u64) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(length).map_or(bytes.len(), |length| length.min(bytes.len())))
}

#[cfg(test)]
mod tests;
