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
