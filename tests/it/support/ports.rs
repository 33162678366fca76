//! Ports of processes that are restarted.

use std::env;
use std::fs::{self, File};
use std::net::TcpListener;
use std::sync::Mutex;

/// A port that is free now, is used by no other test, and is never assigned automatically. Outgoing connections have
/// ports from a range of their own, and must not take that of a member that is down for a moment. Nor must another
/// test, which may run in another process: each port has a file that is locked until the process ends.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    let first = range.and_then(|range| range.split_whitespace().next()?.parse().ok());
    let first: u16 = first.unwrap_or(32_768);
    let user = env::var("USER").unwrap_or_default();
    let folder = env::temp_dir().join(format!("sumd-test-ports-{user}"));
    fs::create_dir_all(&folder).expect("a folder");
    loop {
        let port = fastrand::u16(10_000..first);
        let file = File::create(folder.join(port.to_string())).expect("a file");
        if file.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            TAKEN.lock().expect("no panic").push(file);
            return port;
        }
    }
}
