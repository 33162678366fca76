use super::super::writer::tests::{batch, open};
use super::*;
use crate::store::sqlite::schema;

/// A scan with few matching rows returns in time, with the name to resume after.
#[test]
fn a_scan_looks_at_a_bounded_number_of_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sumd.db");
    let mut writer = open(&path, usize::MAX);
    let names = (0..=SCAN_ROWS).map(|at| (format!("{at:05}"), Some(1)));
    writer.commit(&batch(1, names)).expect("a commit");
    let mut reader = schema::open_reader(&path).expect("a reader").connection;
    let hasher = Meta::read(&reader).expect("it is whole").hasher;
    let snapshot = Snapshot::take(&mut reader, hasher, writer.current()).expect("a snapshot");
    let mut scan = Scan {
        prefix: "".into(),
        after: None,
        since: 1,
        limit: usize::MAX,
    };
    let page = snapshot.scan(&scan).expect("a page");
    let last = format!("{:05}", SCAN_ROWS - 1);
    assert_eq!((page.rows.len(), page.next.as_deref()), (0, Some(&*last)));
    scan.after = page.next;
    let page = snapshot.scan(&scan).expect("a page");
    assert_eq!((page.rows.len(), page.next), (0, None));
}
