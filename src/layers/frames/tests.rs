//! Frames of requests, cut anywhere.

use proptest::prelude::*;

use super::*;

fn message(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a short message");
    [&[0], &length.to_be_bytes()[..], bytes].concat()
}

/// Passes a body in pieces, and returns the output.
fn pass(checks: &mut Checks, body: &[u8], cuts: &[usize]) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    let mut at = 0;
    for cut in cuts.iter().map(|cut| cut % (body.len() + 1)) {
        if cut > at {
            out.extend_from_slice(&checks.pass(Bytes::copy_from_slice(&body[at..cut]))?);
            at = cut;
        }
    }
    out.extend_from_slice(&checks.pass(Bytes::copy_from_slice(&body[at..]))?);
    checks.end()?;
    Ok(out)
}

proptest! {
    /// Messages within the limit pass unchanged; larger ones are replaced by empty ones, and reported with their
    /// numbers.
    #[test]
    fn refused_messages_are_left_out(
        sizes in prop::collection::vec(0usize..30, 0..8),
        mut cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        const MAX: usize = 15;
        let messages: Vec<_> = sizes.iter().map(|size| vec![7; *size]).collect();
        let body: Vec<u8> = messages.iter().flat_map(|bytes| message(bytes)).collect();
        for cut in &mut cuts {
            *cut %= body.len() + 1;
        }
        cuts.sort_unstable();
        let mut checks = Checks::new(Messages::Many, MAX);
        let skipped = Skipped::default();
        checks.skipped = Some(skipped.clone());
        let out = pass(&mut checks, &body, &cuts);
        let fits = |bytes: &Vec<u8>| if bytes.len() > MAX { Vec::new() } else { bytes.clone() };
        let expected: Vec<u8> = messages.iter().flat_map(|bytes| message(&fits(bytes))).collect();
        prop_assert_eq!(out, Ok(expected));
        for (number, size) in (1..).zip(sizes) {
            let bytes = u32::try_from(size).expect("a short message");
            let error = (size > MAX).then_some(FrameError::TooLarge { bytes, max_bytes: MAX });
            prop_assert_eq!(skipped.take(number), error);
        }
    }

    /// A request that ends inside a message, or inside its prefix, is refused.
    #[test]
    fn a_cut_request_is_refused(size in 1usize..30, cut in any::<usize>()) {
        let body = message(&vec![7; size]);
        let cut = 1 + cut % (body.len() - 1);
        let mut checks = Checks::new(Messages::One, 100);
        prop_assert_eq!(pass(&mut checks, &body[..cut], &[]), Err(FrameError::Truncated));
    }
}

/// A unary call has exactly one message, of the right kind and size.
#[test]
fn a_unary_call_has_one_message() {
    let refused = |body: &[u8]| pass(&mut Checks::new(Messages::One, 10), body, &[]).unwrap_err();
    assert_eq!(refused(&[]), FrameError::Count { at_least: 0 });
    let two = [message(b"a"), message(b"b")].concat();
    assert_eq!(refused(&two), FrameError::Count { at_least: 2 });
    assert_eq!(refused(&[1, 0, 0, 0, 0]), FrameError::Compressed);
    assert_eq!(refused(&[2, 0, 0, 0, 0]), FrameError::BadPrefix(2));
    let large = FrameError::TooLarge {
        bytes: 11,
        max_bytes: 10,
    };
    assert_eq!(refused(&message(&[7; 11])), large);
    assert_eq!(
        pass(&mut Checks::new(Messages::One, 10), &message(&[7; 10]), &[]),
        Ok(message(&[7; 10]))
    );
}

/// Only the prefix of a message is passed on until its bytes arrive, whatever length it claims.
#[test]
fn a_claim_is_no_message() {
    let mut checks = Checks::new(Messages::One, 1 << 24);
    let claim = [0, 1, 0, 0, 0];
    assert_eq!(
        checks.pass(Bytes::copy_from_slice(&claim[..3])),
        Ok(Bytes::new())
    );
    assert_eq!(
        checks.pass(Bytes::copy_from_slice(&claim[3..])),
        Ok(Bytes::copy_from_slice(&claim))
    );
    assert_eq!(checks.end(), Err(FrameError::Truncated));
}
