use super::*;

/// A damaged row is one problem: the rows after it are neither missing nor out of place.
#[test]
fn a_damaged_row_of_ids_is_one_problem() {
    let mut layout = rows::tests::layout(crate::store::etcd::FORMAT, 1);
    let time = |at: u32| Millis::from(at) * 3_600_000;
    layout.before_until = Some(time(2));
    let row = |at: u32| {
        let key = layout.before(at);
        let pack = stored::BeforePack {
            time: time(at),
            ..stored::BeforePack::default()
        };
        let before = stored::Before { packs: vec![pack] };
        KeyValue {
            value: layout.seal(&key, &before),
            key,
            ..KeyValue::default()
        }
    };
    let damaged = KeyValue {
        value: Bytes::from_static(b"damage"),
        ..row(1)
    };
    let problems = |rows: &[KeyValue]| {
        let mut before = BeforeRows::default();
        let read = rows.iter().map(|row| before.read(&layout, row).map(drop));
        let mut read: Vec<_> = read.collect();
        read.push(before.end(&layout));
        read.iter().map(Result::is_err).collect::<Vec<_>>()
    };
    assert_eq!(problems(&[row(0), row(1), row(2)]), [false; 4]);
    assert_eq!(
        problems(&[row(0), damaged.clone(), row(2)]),
        [false, true, false, false]
    );
    assert_eq!(
        problems(&[row(0), row(1), damaged]),
        [false, false, true, false]
    );
    assert_eq!(problems(&[row(0), row(2)]), [false, true, false]);
    assert_eq!(problems(&[row(0), row(1)]), [false, false, true]);
}
