//! A queue of log lines to an output that may be full, slow, blocked or closed.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Interval between reports of dropped lines while lines are still being dropped, and between attempts to write such a
/// report.
const NOTICE_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a non-blocking descriptor has accepted no more bytes.
const WOULD_BLOCK_PAUSE: Duration = Duration::from_millis(10);

/// A bounded queue of lines. Adding one never waits for the output: a line that has no room or cannot be written is
/// dropped and counted, and the count is written once the output accepts lines again.
pub(super) struct Queue {
    capacity: usize,
    state: Mutex<State>,
    /// Notified when a line was added or dropped.
    changed: Condvar,
    /// Notified when all lines were written or dropped.
    empty: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Bytes of the capacity in use.
    bytes: usize,
    /// Dropped lines that are not reported yet.
    dropped: u64,
    /// The writing thread is not waiting for lines.
    is_writing: bool,
}

impl Queue {
    /// A queue with a capacity in bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            state: Mutex::default(),
            changed: Condvar::new(),
            empty: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let line = line.to_vec();
        let bytes = size(&line);
        let mut state = self.lock();
        if bytes > self.capacity - state.bytes {
            state.dropped += 1;
        } else {
            state.bytes += bytes;
            state.lines.push_back(line);
        }
        self.changed.notify_one();
    }

    /// Waits until every line was written or dropped, for at most `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let state = self.lock();
        let is_busy = |state: &mut State| state.is_writing || !state.lines.is_empty();
        let waited = self.empty.wait_timeout_while(state, patience, is_busy);
        drop(waited);
    }

    /// Writes lines as they come, forever.
    pub(super) fn write_to(&self, output: impl Write, notice: impl Fn(u64) -> String) {
        let mut output = Output {
            output,
            is_torn: false,
        };
        let mut told = Instant::now();
        loop {
            if let Some(line) = self.next()
                && output.write(&line).is_err()
            {
                self.lock().dropped += 1;
                continue;
            }
            let (dropped, is_last) = {
                let state = self.lock();
                (state.dropped, state.lines.is_empty())
            };
            if dropped > 0 && (is_last || told.elapsed() >= NOTICE_INTERVAL) {
                told = Instant::now();
                if output.write(notice(dropped).as_bytes()).is_ok() {
                    self.lock().dropped -= dropped;
                }
            }
        }
    }

    /// The next line, or `None` if dropped lines are due to be reported and no line has come.
    fn next(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= size(&line);
                state.is_writing = true;
                return Some(line);
            }
            state.is_writing = false;
            self.empty.notify_all();
            let no_lines = |state: &mut State| state.lines.is_empty();
            if state.dropped == 0 {
                state = self.wait(state);
                continue;
            }
            let waited = self
                .changed
                .wait_timeout_while(state, NOTICE_INTERVAL, no_lines);
            let (waited, time) = waited.unwrap_or_else(PoisonError::into_inner);
            state = waited;
            if time.timed_out() {
                state.is_writing = true;
                return None;
            }
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of the capacity that a line takes.
fn size(line: &[u8]) -> usize {
    line.len() + mem::size_of::<Vec<u8>>()
}

/// Takes a whole line with each write, as `tracing_subscriber` makes them.
impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Output<W> {
    output: W,
    /// The last line was written only in part.
    is_torn: bool,
}

impl<W: Write> Output<W> {
    /// Writes a line, starting at the beginning of a line.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.write_all(b"\n")?;
            self.is_torn = false;
        }
        self.write_all(line)
    }

    /// Like [`Write::write_all`], but repeats a write that would block, and records whether a failure left a partial
    /// line.
    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.is_torn = !bytes.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(WOULD_BLOCK_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;

    use super::*;

    /// An output that accepts as many bytes as the test says, or fails.
    struct Scripted {
        script: mpsc::Receiver<io::Result<usize>>,
        written: mpsc::Sender<String>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = self
                .script
                .recv()
                .unwrap_or(Ok(bytes.len()))?
                .min(bytes.len());
            let text = String::from_utf8_lossy(&bytes[..taken]).into_owned();
            // The test may have ended.
            let _ = self.written.send(text);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    struct Log {
        queue: Arc<Queue>,
        script: mpsc::Sender<io::Result<usize>>,
        written: mpsc::Receiver<String>,
    }

    impl Log {
        fn begin(capacity: usize) -> Self {
            let (script, steps) = mpsc::channel();
            let (sender, written) = mpsc::channel();
            let queue = Arc::new(Queue::new(capacity));
            let output = Scripted {
                script: steps,
                written: sender,
            };
            let lines = queue.clone();
            // The thread ends with the test process.
            thread::spawn(move || lines.write_to(output, |dropped| format!("dropped {dropped}\n")));
            Self {
                queue,
                script,
                written,
            }
        }

        fn step(&self, step: io::Result<usize>) {
            self.script.send(step).expect("it writes");
        }

        /// Lets all further writes succeed.
        fn let_write(&mut self) {
            self.script = mpsc::channel().0;
        }

        fn line(&self) -> String {
            self.written.recv_timeout(PATIENCE).expect("a line")
        }
    }

    fn full() -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    #[test]
    fn lines_that_cannot_be_written_are_told_once_they_can() {
        let log = Log::begin(1 << 20);
        for _ in 0..3 {
            log.step(full());
        }
        log.step(Ok(usize::MAX));
        log.queue.push(b"a\n");
        log.queue.push(b"b\n");
        // The report does not need a further line.
        assert_eq!(log.line(), "dropped 2\n");
        log.step(Ok(usize::MAX));
        log.queue.push(b"c\n");
        assert_eq!(log.line(), "c\n");
    }

    #[test]
    fn lines_without_room_are_dropped_at_once_and_told() {
        let line = [b'x'; 100];
        let mut log = Log::begin(3 * size(&line));
        for _ in 0..10 {
            log.queue.push(&line);
        }
        // The writing thread may have taken one line.
        let dropped = log.queue.lock().dropped;
        assert!((6..=7).contains(&dropped), "{dropped}");
        log.let_write();
        let written: Vec<_> = (dropped..=10).map(|_| log.line()).collect();
        let (lines, notices): (Vec<_>, Vec<_>) =
            written.iter().partition(|text| text.len() == line.len());
        assert_eq!(lines.len() as u64, 10 - dropped);
        assert_eq!(notices, [&format!("dropped {dropped}\n")]);
    }

    #[test]
    fn a_torn_line_is_ended_before_the_next() {
        let mut log = Log::begin(1 << 20);
        log.step(Ok(3));
        log.step(full());
        log.queue.push(b"abcdef\n");
        assert_eq!(log.line(), "abc");
        log.queue.flush(PATIENCE);
        log.let_write();
        log.queue.push(b"next\n");
        assert_eq!(log.line(), "\n");
        let mut written = [log.line(), log.line()];
        written.sort();
        assert_eq!(written, ["dropped 1\n", "next\n"]);
    }

    #[test]
    fn flushing_has_an_end() {
        let log = Log::begin(1 << 20);
        log.queue.push(b"a\n");
        // Nothing lets the line be written yet.
        log.queue.flush(Duration::from_millis(1));
        log.step(Ok(usize::MAX));
        log.queue.flush(PATIENCE);
        assert_eq!(log.written.try_recv().as_deref(), Ok("a\n"));
    }
}
