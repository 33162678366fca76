use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Known = BTreeMap<String, (Option<i64>, i64, bool)>;

fn run(batch: &BTreeMap<String, Option<i64>>, revision: i64, is_new: bool) -> SortedRun {
    let changes = batch.iter().map(|(name, value)| CounterChange {
        name: name.as_str().into(),
        value: *value,
        place: 1,
        is_new,
    });
    SortedRun::new(&changes.collect::<Vec<_>>(), revision - 1)
}

fn known(latest: Latest<'_>) -> (Option<i64>, i64, bool) {
    (latest.value, latest.revision, latest.is_new)
}

proptest! {
    /// A counter is found as its last batch left it, by name and in order, after any number of batches and during a
    /// checkpoint.
    #[test]
    fn a_view_is_what_a_map_would_be(
        batches in prop::collection::vec(
            (prop::collection::btree_map("[a-c]{1,3}", any::<Option<i64>>(), 0..20), any::<bool>()),
            0..40,
        ),
        freeze_at in 0..40usize,
        from in "[a-d]{0,3}",
        wanted in prop::collection::vec("[a-d]{1,3}", 0..30),
    ) {
        let mut memtable = Memtable::new(usize::MAX);
        let mut model = Known::new();
        for (index, (batch, is_new)) in batches.iter().enumerate() {
            let revision = i64::try_from(index).expect("few") + 1;
            memtable.push(run(batch, revision, *is_new));
            for (name, value) in batch {
                let before = model.get(name).is_some_and(|(_, _, is_new)| *is_new);
                model.insert(name.clone(), (*value, revision, *is_new || before));
            }
            if index == freeze_at {
                memtable.freeze();
            }
        }
        let mut gathered = RunBuilder::default();
        let mut loaded = Memtable::new(usize::MAX);
        for (index, (batch, is_new)) in batches.iter().enumerate() {
            let revision = i64::try_from(index).expect("few") + 1;
            let run = run(batch, revision, *is_new);
            (0..batch.len()).filter_map(|at| run.get(at)).for_each(|latest| gathered.push(latest));
            if index % 3 == 2 {
                loaded.push(gathered.take());
            }
        }
        loaded.push(gathered.take());
        let view = memtable.view(0);
        prop_assert!(MergeIter::new(&loaded.view(0).runs, &from).eq(MergeIter::new(&view.runs, &from)));
        let all: Vec<_> = MergeIter::new(&view.runs, &from)
            .map(|latest| (latest.name.to_owned(), known(latest)))
            .collect();
        let expected: Vec<_> = model.range(from..).map(|(n, k)| (n.clone(), *k)).collect();
        prop_assert_eq!(all, expected);
        let mut lookup = Lookup::new(&view.runs);
        for name in wanted {
            // A lookup takes `is_new` from the newest run alone, and none of its callers asks for it.
            let found = lookup.find(&name).map(|latest| (latest.value, latest.revision));
            let expected = model.get(&name).map(|(value, revision, _)| (*value, *revision));
            prop_assert_eq!(found, expected);
        }
    }
}

/// Both a long log of one counter and many counters in memory make a checkpoint due.
#[test]
fn both_a_long_log_and_many_counters_are_full() {
    let mut memtable = Memtable::new(BYTES_PER_LOGGED * 4 * LOGGED_BYTES);
    let batch = BTreeMap::from([("a".to_owned(), Some(1))]);
    for revision in 1..=4 {
        memtable.push(run(&batch, revision, false));
        memtable.log(0);
        assert!(!memtable.is_full());
    }
    memtable.log(0);
    memtable.log(0);
    assert!(memtable.is_full());
    memtable.freeze();
    memtable.drop_frozen();
    assert!(!memtable.is_full());

    let names = |count: usize| (0..count).map(|i| (format!("{i:0200}"), Some(1))).collect();
    let takes = 10 * (size_of::<Entry>() + 200);
    for (count, full) in [(10, false), (11, true)] {
        let mut memtable = Memtable::new(takes);
        memtable.push(run(&names(count), 1, false));
        assert_eq!(memtable.is_full(), full);
    }
    let short: BTreeMap<_, _> = (0..10).map(|i| (i.to_string(), Some(1))).collect();
    let mut memtable = Memtable::new(9 * size_of::<Entry>());
    memtable.push(run(&short, 1, false));
    assert!(memtable.is_full());
}

/// A start that reads a long log makes runs on the way.
#[test]
fn what_is_gathered_is_bounded() {
    let mut gathered = RunBuilder::default();
    for at in 0..GATHERED {
        assert!(!gathered.is_full(), "{at}");
        gathered.push(Latest {
            name: "a",
            value: Some(1),
            revision: 1,
            is_new: false,
        });
    }
    assert!(gathered.is_full());
    assert_eq!(gathered.take().entries.len(), 1);
    assert!(!gathered.is_full());
}

/// There are few runs after any number of batches, since a reader looks at each of them.
#[test]
fn runs_are_few() {
    let mut memtable = Memtable::new(usize::MAX);
    for i in 0..10_000 {
        let batch = BTreeMap::from([(format!("{:05}", i * 7919 % 10_000), Some(i))]);
        memtable.push(run(&batch, i, false));
        let sizes = memtable.growing.iter().map(|run| run.entries.len());
        let sizes: Vec<_> = sizes.collect();
        assert!(sizes.len() <= 14, "{sizes:?}");
        assert!(
            sizes.windows(2).all(|runs| runs[0] >= 2 * runs[1]),
            "{sizes:?}"
        );
    }
}
