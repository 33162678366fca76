//! Fixtures as they are stored: a database as the SQL that creates it, and etcd's keys one per line, with the revision
//! of the last change and the value in hexadecimal.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;
use rusqlite::Connection;
use rusqlite::types::Value;
use sumd::etcd::{Client, prefix, put};
use sumd::proto::etcd::etcdserverpb::TxnRequest;
use sumd::proto::sumd::store::v1::Meta;
use tokio::time::{Duration, Instant};

use crate::support::soon;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
/// Keys of nodes, which are gone by now.
const NODES: &str = "/sumd/nodes/";

fn path(name: &str) -> PathBuf {
    let kind = if name.starts_with("etcd") {
        "txt"
    } else {
        "sql"
    };
    Path::new(FOLDER).join(format!("{name}.{kind}"))
}

pub fn read(name: &str) -> String {
    let path = path(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn write(name: &str, text: &str) {
    fs::create_dir_all(FOLDER).expect("a folder");
    fs::write(path(name), text).expect("room");
}

pub fn load_database(text: &str, path: &Path) {
    let connection = Connection::open(path).expect("a database");
    connection.execute_batch(text).expect("it is SQL");
}

/// The SQL that creates a database.
pub fn dump_database(path: &Path) -> rusqlite::Result<String> {
    let connection = Connection::open(path)?;
    let mut text = String::new();
    for name in ["application_id", "user_version"] {
        let number: i32 = connection.pragma_query_value(None, name, |row| row.get(0))?;
        writeln!(text, "PRAGMA {name} = {number};").expect("room");
    }
    text += "BEGIN;\n";
    let mut schema =
        connection.prepare("SELECT type, name, sql FROM sqlite_schema ORDER BY rowid")?;
    let made = schema.query_map([], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, String>(2)?,
        ))
    })?;
    let made: Vec<_> = made.collect::<Result<_, _>>()?;
    for (kind, name, sql) in made {
        writeln!(text, "{sql};").expect("room");
        if kind == "table" {
            dump_rows(&connection, &name, &mut text)?;
        }
    }
    text += "COMMIT;\n";
    Ok(text)
}

fn dump_rows(connection: &Connection, table: &str, text: &mut String) -> rusqlite::Result<()> {
    let mut all = connection.prepare(&format!("SELECT * FROM {table}"))?;
    let columns = all.column_count();
    let mut rows = all.query([])?;
    while let Some(row) = rows.next()? {
        let values = (0..columns).map(|column| {
            Ok(match row.get::<_, Value>(column)? {
                Value::Null => "NULL".to_owned(),
                Value::Integer(number) => number.to_string(),
                Value::Real(number) => number.to_string(),
                Value::Text(value) => format!("'{}'", value.replace('\'', "''")),
                Value::Blob(bytes) => format!("x'{}'", hex(&bytes)),
            })
        });
        let values: Vec<_> = values.collect::<rusqlite::Result<_>>()?;
        writeln!(text, "INSERT INTO {table} VALUES({});", values.join(",")).expect("room");
    }
    Ok(())
}

/// Writes keys to an empty etcd, each at the revision at which it was changed, because revisions of counters follow
/// from those.
pub async fn load_etcd(text: &str, client: &Client) {
    let rows = text.lines().map(|line| {
        let [revision, key, value] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line:?} is no row");
        };
        let revision: i64 = revision.parse().expect("a number");
        (revision, key.to_owned(), unhex(value))
    });
    let mut rows = rows.peekable();
    let mut now = 1;
    while rows.peek().is_some() {
        now += 1;
        let mut success = Vec::new();
        while let Some((_, key, value)) = rows.next_if(|(revision, ..)| *revision == now) {
            success.push(put(key, value));
        }
        if success.is_empty() {
            success.push(put("/nothing", ""));
        }
        let request = TxnRequest {
            success,
            ..TxnRequest::default()
        };
        let done = client.txn(request, Instant::now() + Duration::from_secs(10));
        let header = soon(done).await.expect("etcd is well").header;
        assert_eq!(header.expect("a header").revision, now, "others write, too");
    }
}

/// All keys of sumd, by the revision of their last change.
pub async fn dump_etcd(client: &Client) -> String {
    let mut rows = Vec::new();
    let late = Instant::now() + Duration::from_secs(10);
    let found = soon(client.range(prefix("/sumd/", 0), late)).await;
    for row in found.expect("etcd is well").kvs {
        let key = String::from_utf8(row.key.to_vec()).expect("text");
        if !key.starts_with(NODES) {
            rows.push((row.mod_revision, key, hex(&row.value)));
        }
    }
    rows.sort();
    let lines = rows
        .iter()
        .map(|(revision, key, value)| format!("{revision} {key} {value}\n"));
    lines.collect()
}

fn hex(bytes: &[u8]) -> String {
    let digit = |digit: u8| char::from(b"0123456789abcdef"[usize::from(digit)]);
    let digits = bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    digits.collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = (0..text.len()).step_by(2);
    let bytes = digits.map(|at| u8::from_str_radix(&text[at..at + 2], 16));
    bytes.collect::<Result<_, _>>().expect("hexadecimal digits")
}

/// The number of a fixture's format, as recorded in the data.
pub fn format(text: &str) -> u32 {
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("PRAGMA user_version = "));
    if let Some(version) = version {
        return version.trim_end_matches(';').parse().expect("a number");
    }
    let meta = text
        .lines()
        .find_map(|line| line.split_once(" /sumd/meta "));
    let (_, value) = meta.expect("the row that says what the data are");
    // After its check sum.
    let meta = Meta::decode(&unhex(value)[4..]);
    meta.expect("the row's contents").format
}
