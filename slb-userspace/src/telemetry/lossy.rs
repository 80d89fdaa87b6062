//! A writer that never waits and never fails: a thread of its own writes, and what it cannot write is counted.
//!
//! `tracing_appender::non_blocking` does the same, but it does not count lines that cannot be written, and where the reader hangs,
//! the guard that flushes it at the end of the process prints to standard output and waits.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

/// Lines that wait to be written at most. The longest are some hundred bytes.
const LINES: usize = 8_192;

/// Where log lines go. Each write is one line.
#[derive(Debug, Clone)]
pub(super) struct Lossy {
    lines: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// Everything before has been written, or is lost.
    Flush(SyncSender<()>),
}

impl Lossy {
    /// Starts the thread that writes. `report` logs how many lines have been lost in all, once lines are written again.
    pub(super) fn start(writer: impl Write + Send + 'static, report: fn(u64)) -> Self {
        let (lines, messages) = sync_channel(LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        // Without it every line is lost, and counted, as its channel is closed.
        let _ = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(writer, &messages, &counted, report));
        Self { lines, lost }
    }

    /// Lines that have been lost.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Writes a line, if there is room.
    pub(super) fn say(&self, line: Vec<u8>) {
        if self.lines.try_send(Message::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything has been written, or for as long.
    pub(super) fn flush(&self, limit: Duration) {
        let (written, is_written) = sync_channel(1);
        if self.lines.try_send(Message::Flush(written)).is_ok() {
            // In vain where the reader hangs.
            let _ = is_written.recv_timeout(limit);
        }
    }
}

impl Write for Lossy {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.say(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(mut writer: impl Write, messages: &Receiver<Message>, lost: &AtomicU64, report: fn(u64)) {
    let mut reported = 0;
    for message in messages {
        match message {
            Message::Line(line) => {
                if writer.write_all(&line).and_then(|()| writer.flush()).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let lost = lost.load(Ordering::Relaxed);
                if lost != reported {
                    reported = lost;
                    report(lost);
                }
            }
            // Who waits may have given up.
            Message::Flush(written) => drop(written.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::UnixStream,
        sync::{
            atomic::AtomicBool,
            mpsc::{self, Sender},
        },
        time::Instant,
    };

    use super::*;

    const GENEROUS: Duration = Duration::from_secs(10);

    fn quiet(_: u64) {}

    #[test]
    fn a_reader_that_hangs_delays_nobody_and_what_is_lost_is_counted() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let log = Lossy::start(ours, quiet);
        let begun = Instant::now();
        for _ in 0..LINES * 3 {
            log.say(vec![b'x'; 200]);
        }
        assert!(log.lost() >= LINES as u64, "{} lost", log.lost());
        log.flush(Duration::from_millis(10));
        assert!(begun.elapsed() < GENEROUS, "{:?}", begun.elapsed());
    }

    /// Fails for as long as it is told.
    struct Full {
        is_full: Arc<AtomicBool>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Full {
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
    fn lines_that_cannot_be_written_are_counted_and_later_ones_are_written_again() {
        static REPORTED: AtomicU64 = AtomicU64::new(0);
        let is_full = Arc::new(AtomicBool::new(true));
        let (written, lines) = mpsc::channel();
        let full = Full { is_full: Arc::clone(&is_full), written };
        let log = Lossy::start(full, |lost| REPORTED.store(lost, Ordering::Relaxed));
        (0..3).for_each(|_| log.say(b"lost".to_vec()));
        log.flush(GENEROUS);
        assert_eq!(log.lost(), 3);
        is_full.store(false, Ordering::Relaxed);
        log.clone().write_all(b"again").unwrap();
        log.flush(GENEROUS);
        assert_eq!(lines.try_iter().collect::<Vec<_>>(), [b"again"]);
        assert_eq!((log.lost(), REPORTED.load(Ordering::Relaxed)), (3, 3));
    }
}
