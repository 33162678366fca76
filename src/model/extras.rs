//! Optional fields after those of a row's format: each is a tag, a length and that many bytes.
//!
//! A reader skips an unknown field with an odd tag, and rejects a row that has one with an even tag. A later version
//! thus decides whether earlier ones may ignore a field or must not change the row. This is the rule of BOLT 1 for its
//! type-length-value streams ("it's OK to be odd").

use super::codec::{Corrupt, Reader, put_u64};

/// Appends one field.
pub(super) fn put(out: &mut Vec<u8>, tag: u64, value: &[u8]) {
    put_u64(out, tag);
    put_u64(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Passes each field to `each`, which returns whether it knows the tag.
///
/// # Errors
/// Returns [`Corrupt`] if the bytes are not fields, if an unknown field has an even tag, or if `each` fails.
pub(super) fn read(
    bytes: &[u8],
    mut each: impl FnMut(u64, &mut Reader<'_>) -> Result<bool, Corrupt>,
) -> Result<(), Corrupt> {
    let mut reader = Reader(bytes);
    while !reader.is_empty() {
        let tag = reader.u64()?;
        let length = reader.length()?;
        let mut value = Reader(reader.slice(length)?);
        if !each(tag, &mut value)? && tag.is_multiple_of(2) {
            return Err(Corrupt("a row has a field that only a newer sumd knows"));
        }
    }
    Ok(())
}

/// Skips the fields behind a row, of which none is known.
///
/// # Errors
/// Returns [`Corrupt`] if the bytes are not fields, or if a field has an even tag.
pub(super) fn skip(reader: &mut Reader<'_>) -> Result<(), Corrupt> {
    let length = reader.length()?;
    check_extras(reader.slice(length)?)
}

/// Checks fields of which none is known.
///
/// # Errors
/// Returns [`Corrupt`] if the bytes are not fields, or if a field has an even tag.
pub fn check_extras(bytes: &[u8]) -> Result<(), Corrupt> {
    read(bytes, |_, _| Ok(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An unknown field is skipped if its tag is odd, and rejected if it is even.
    #[test]
    fn it_is_ok_to_be_odd() {
        let mut known = None;
        let mut of = |tags: &[u64]| {
            let mut bytes = Vec::new();
            for tag in tags {
                put(&mut bytes, *tag, &[7, 9]);
            }
            read(&bytes, |tag, value| {
                if tag == 2 {
                    known = Some(value.u8()?);
                }
                Ok(tag == 2)
            })
        };
        assert_eq!(of(&[1, 2, 3]), Ok(()));
        assert!(of(&[1, 4]).is_err());
        assert_eq!(known, Some(7));
        assert!(read(&[1, 200, 1], |_, _| Ok(true)).is_err(), "cut off");
    }

    /// Unknown fields are skipped up to their end, and rejected if one has an even tag.
    #[test]
    fn unknown_fields_are_passed_over_to_their_end() {
        let row = |tag| {
            let mut fields = Vec::new();
            put(&mut fields, tag, &[7, 9]);
            let mut row = vec![u8::try_from(fields.len()).expect("few")];
            row.extend(fields);
            row.push(42);
            row
        };
        let odd = row(3);
        let mut reader = Reader(&odd);
        assert_eq!(skip(&mut reader), Ok(()));
        assert_eq!(reader.u8(), Ok(42));
        assert!(skip(&mut Reader(&row(4))).is_err());
        let fields = |row: &[u8]| check_extras(&row[1..row.len() - 1]);
        assert_eq!(fields(&odd), Ok(()));
        assert!(fields(&row(4)).is_err());
    }
}
