//! Rows in data of several formats.

use super::*;

/// The rows of data of a format, divided into so many lanes.
pub fn layout(format: u32, lanes: u32) -> Layout {
    let meta = Meta {
        format,
        lanes,
        key: vec![7; 16].into(),
        ..Meta::default()
    };
    Layout::new("/sumd", &meta, 1).expect("a format that is known")
}

/// Versions that read the format before that know sessions only as a whole.
#[test]
fn sessions_are_whole_for_those_who_know_no_others() {
    for (format, whole) in [(FORMAT_ADDED - 1, true), (FORMAT_ADDED, false)] {
        assert_eq!(layout(format, 1).whole_sessions(), whole);
    }
}

/// Of what a log consists of, heads alone tell of a batch at once.
#[test]
fn heads_are_told_from_packs() {
    let layout = layout(FORMAT, 8);
    assert!(layout.is_head(&layout.head(7)));
    assert!(!layout.is_head(&layout.pack(7, 1)));
}

/// Nodes look for the keys of readers where readers put them.
#[test]
fn holds_have_one_place() {
    assert_eq!(holds("/sumd"), "/sumd/holds/");
    assert_eq!(layout(FORMAT, 1).holds(), holds("/sumd").as_bytes());
}

/// Older versions that may read the data do not know the newest form of a session; it is written once none of them may.
#[test]
fn sessions_are_written_in_the_form_of_the_data() {
    let session = Session::default();
    let without = session.encode_without_extras();
    assert_ne!(session.encode(), without);
    assert_eq!(layout(FORMAT_EXTRAS - 1, 1).encode(&session), without);
    assert_eq!(layout(FORMAT_EXTRAS, 1).encode(&session), session.encode());
}

/// No key names a lane that the data do not have.
#[test]
fn keys_name_lanes_that_there_are() {
    let layout = layout(FORMAT, 8);
    let all = layout.all_sessions();
    for (lane, is_there) in [(7, true), (8, false)] {
        let of_head = layout.lane_of_head(&layout.head(lane));
        assert_eq!(of_head, is_there.then_some(lane));
        let session = layout.session(lane, "meter-7");
        let of_session = layout.lane_of(&session, &all);
        assert_eq!(of_session, is_there.then_some((lane, "meter-7")));
    }
}
