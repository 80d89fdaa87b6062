//! A log writer that neither blocks nor fails: a thread of its own writes, and lost lines are counted.
//!
//! `tracing_appender::non_blocking` is similar, but does not count lines that fail to be written. When the reader
//! hangs, its guard prints to standard output and blocks at the end of the process.

use std::{
    cell::Cell,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

/// Most lines in the queue. The longest have some hundred bytes.
const LINES: usize = 8_192;

/// Additional capacity of the queue for urgent lines.
const URGENT_LINES: usize = 256;

thread_local! {
    static IS_URGENT: Cell<bool> = const { Cell::new(false) };
}

/// Sender of log lines. Each write is one line.
#[derive(Debug, Clone)]
pub(super) struct LossyWriter {
    messages: Sender<WriterMessage>,
    counts: Arc<LogCounts>,
}

#[derive(Debug, Default)]
struct LogCounts {
    /// Lines in the queue.
    waiting: AtomicUsize,
    lost: AtomicU64,
    /// Whether a flush has timed out and its lines are still not written.
    is_hanging: AtomicBool,
}

#[derive(Debug)]
enum WriterMessage {
    Line(Vec<u8>),
    /// Answered when everything before it has been written or lost.
    Flush(SyncSender<()>),
}

impl LossyWriter {
    /// Starts the writing thread. Once lines are written again, `report` logs the total number of lost lines.
    pub(super) fn start(writer: impl Write + Send + 'static, report: fn(u64)) -> Self {
        let (messages, received) = channel();
        let counts = Arc::new(LogCounts::default());
        let counted = Arc::clone(&counts);
        // If the thread cannot start, its channel is closed: every line is lost and counted.
        let _ = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(writer, &received, &counted, report));
        Self { messages, counts }
    }

    /// Lines lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// Queues a line, or drops and counts it if the queue is full.
    pub(super) fn enqueue(&self, line: Vec<u8>) {
        let room = if IS_URGENT.get() { LINES + URGENT_LINES } else { LINES };
        let waiting = self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        if waiting >= room || self.messages.send(WriterMessage::Line(line)).is_err() {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything has been written, for `limit` at most.
    pub(super) fn flush(&self, limit: Duration) {
        let (written, is_written) = sync_channel(1);
        if self.messages.send(WriterMessage::Flush(written)).is_ok()
            && is_written.recv_timeout(limit).is_err()
        {
            self.counts.is_hanging.store(true, Ordering::SeqCst);
            // The writer was in time after all, and will not clear the flag again.
            if is_written.try_recv().is_ok() {
                self.counts.is_hanging.store(false, Ordering::SeqCst);
            }
        }
    }

    /// As [`Self::flush`], but returns at once while lines of an earlier timed-out flush are still not written.
    pub(super) fn flush_unless_hanging(&self, limit: Duration) {
        if !self.counts.is_hanging.load(Ordering::SeqCst) {
            self.flush(limit);
        }
    }
}

/// Runs `log` with access to the queue's urgent capacity on this thread.
pub(super) fn urgently(log: impl FnOnce()) {
    IS_URGENT.set(true);
    log();
    IS_URGENT.set(false);
}

impl Write for LossyWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.enqueue(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(
    mut writer: impl Write,
    messages: &Receiver<WriterMessage>,
    counts: &LogCounts,
    report: fn(u64),
) {
    let mut reported = 0;
    for message in messages {
        match message {
            WriterMessage::Line(line) => {
                let written = writer.write_all(&line).and_then(|()| writer.flush());
                counts.waiting.fetch_sub(1, Ordering::Relaxed);
                if written.is_err() {
                    counts.lost.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let lost = counts.lost.load(Ordering::Relaxed);
                if lost != reported {
                    reported = lost;
                    report(lost);
                }
            }
            WriterMessage::Flush(written) => {
                // The waiting thread may have given up.
                let _ = written.try_send(());
                counts.is_hanging.store(false, Ordering::SeqCst);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, time::Instant};

    use super::*;

    const GENEROUS: Duration = Duration::from_secs(10);

    fn quiet(_: u64) {}

    #[test]
    fn hanging_log_reader_delays_no_caller_and_lost_lines_are_counted() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let log = LossyWriter::start(ours, quiet);
        let begun = Instant::now();
        for _ in 0..LINES * 3 {
            log.enqueue(vec![b'x'; 200]);
        }
        assert!(log.lost() >= LINES as u64, "{} lost", log.lost());
        log.flush(Duration::from_millis(10));
        assert!(begun.elapsed() < GENEROUS, "{:?}", begun.elapsed());
    }

    /// A writer that fails while `is_full` is set.
    struct FullDisk {
        is_full: Arc<AtomicBool>,
        written: Sender<Vec<u8>>,
    }

    impl Write for FullDisk {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            if self.is_full.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.send(line.to_vec()).unwrap();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn unwritable_log_lines_are_counted_and_logging_resumes() {
        static REPORTED: AtomicU64 = AtomicU64::new(0);
        let is_full = Arc::new(AtomicBool::new(true));
        let (written, lines) = channel();
        let full = FullDisk { is_full: Arc::clone(&is_full), written };
        let log = LossyWriter::start(full, |lost| REPORTED.store(lost, Ordering::Relaxed));
        (0..3).for_each(|_| log.enqueue(b"lost".to_vec()));
        log.flush(GENEROUS);
        assert_eq!(log.lost(), 3);
        is_full.store(false, Ordering::Relaxed);
        log.clone().write_all(b"again").unwrap();
        log.flush(GENEROUS);
        assert_eq!(lines.try_iter().collect::<Vec<_>>(), [b"again"]);
        assert_eq!((log.lost(), REPORTED.load(Ordering::Relaxed)), (3, 3));
    }
}
