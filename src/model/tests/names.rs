//! Names of counters.

use super::*;

#[test]
fn names_are_paths() {
    for name in [
        "a",
        "a/b",
        "acme/2026-11/api calls",
        "ü/ß",
        &"x".repeat(256),
    ] {
        assert_eq!(check_name(name), Ok(()), "{name}");
    }
    let too_long = NameError::TooLong {
        bytes: 257,
        max: 256,
    };
    for (name, error) in [
        ("", NameError::Empty),
        ("/", NameError::EmptySegment { at: 0 }),
        ("/a", NameError::EmptySegment { at: 0 }),
        ("a/", NameError::EmptySegment { at: 2 }),
        ("a//b", NameError::EmptySegment { at: 2 }),
        ("a\nb", NameError::Control { at: 1 }),
        ("é\u{85}", NameError::Control { at: 2 }),
        ("a\u{7f}", NameError::Control { at: 1 }),
        (&"x".repeat(257), too_long),
    ] {
        assert_eq!(check_name(name), Err(error), "{name:?}");
    }
    assert_eq!(group("acme/a/b"), "acme");
    assert_eq!(group("acme"), "acme");
}

/// Every fault of a name has a readable message.
#[test]
fn a_name_is_refused_with_a_reason() {
    let too_long = NameError::TooLong {
        bytes: 257,
        max: 256,
    };
    for (error, told) in [
        (NameError::Empty, "it is empty"),
        (too_long, "it has 257 bytes, over the limit of 256"),
        (
            NameError::Control { at: 1 },
            "it has a control character at byte 1",
        ),
        (
            NameError::EmptySegment { at: 2 },
            "it has an empty path segment at byte 2",
        ),
    ] {
        assert_eq!(error.to_string(), told);
    }
}

/// A text may have exactly as many bytes as its limit, whatever characters they form.
#[test]
fn a_text_may_be_as_long_as_its_limit() {
    for text in ["abcd", "\u{fc}\u{df}"] {
        assert_eq!(check_text(text, 4), Ok(()));
        let too_long = NameError::TooLong { bytes: 4, max: 3 };
        assert_eq!(check_text(text, 3), Err(too_long));
    }
    assert_eq!(check_name(&"\u{fc}".repeat(128)), Ok(()));
}
