//! Logging: events with fields, on standard error.

mod lossy;

use std::{
    fmt::Display,
    io::{IsTerminal as _, Write as _, stderr},
    panic,
    sync::OnceLock,
    time::Duration,
};

use clap::ValueEnum;
use tracing_subscriber::{EnvFilter, fmt};

use self::lossy::LossyWriter;

/// How long a panic, and the end of the process, wait for pending log lines.
const FINAL_FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

static LOG: OnceLock<LossyWriter> = OnceLock::new();

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging. `SLB_LOG` sets the level, such as `debug` or `slb_userspace::health=debug`; the default is `info`.
///
/// A log that cannot be written, or has a slow reader, neither ends nor delays the process: lines are lost and counted.
pub fn init(format: Format) {
    let filter = EnvFilter::try_from_env("SLB_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let is_terminal = stderr().is_terminal();
    let log = LOG.get_or_init(|| LossyWriter::start(stderr(), report_lost_lines));
    let builder =
        fmt().with_env_filter(filter).with_writer(|| log.clone()).with_ansi(is_terminal).with_target(false);
    match format {
        Format::Text => builder.init(),
        Format::Json => builder.json().init(),
    }
    // The standard library's hook writes to standard error itself and blocks on its reader.
    panic::set_hook(Box::new(|panic| log_panic(panic, log)));
}

/// Logs a panic and waits briefly until it is written, because the panic may end the process. If the log's reader
/// hangs, only the first panic waits: repeated panics must not delay the process.
fn log_panic(panic: &dyn Display, log: &LossyWriter) {
    lossy::urgently(|| tracing::error!("{panic}"));
    log.flush_unless_hanging(FINAL_FLUSH_TIMEOUT);
}

fn report_lost_lines(lost: u64) {
    tracing::warn!(lost, "log lines dropped: cannot write to standard error, or its reader is too slow");
}

/// Log lines lost since the start.
pub fn lost() -> u64 {
    LOG.get().map_or(0, LossyWriter::lost)
}

/// Writes an unformatted message to the log, and waits briefly for pending lines. Called before the process ends.
pub fn log_final(text: &str) {
    match LOG.get() {
        Some(log) => {
            if !text.is_empty() {
                log.enqueue(format!("{text}\n").into_bytes());
            }
            log.flush(FINAL_FLUSH_TIMEOUT);
        }
        None if text.is_empty() => {}
        // A failure cannot be reported anywhere.
        None => drop(writeln!(stderr(), "{text}")),
    }
}

/// The log of `action` on this thread.
#[cfg(test)]
pub fn logged(action: impl FnOnce()) -> String {
    use std::{
        fs::File,
        io::{Read as _, Seek as _},
        sync::Arc,
    };
    let file: Arc<File> = Arc::new(tempfile::tempfile().unwrap());
    let log = fmt().with_writer(Arc::clone(&file)).with_ansi(false).finish();
    tracing::subscriber::with_default(log, action);
    let mut text = String::new();
    (&*file).rewind().unwrap();
    (&*file).read_to_string(&mut text).unwrap();
    text
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Read as _, Write},
        os::unix::net::UnixStream,
        sync::{Arc, Mutex},
        thread,
        time::Instant,
    };

    use super::*;

    /// A writer that is slow.
    struct SlowReader(Arc<Mutex<Vec<u8>>>);

    impl Write for SlowReader {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            thread::sleep(FINAL_FLUSH_TIMEOUT / 10);
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn panic_logged_to(log: &LossyWriter, panic: &str) {
        let writer = log.clone();
        let subscriber = fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        tracing::subscriber::with_default(subscriber, || log_panic(&panic, log));
    }

    #[test]
    fn panic_is_written_before_the_hook_returns() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let log = LossyWriter::start(SlowReader(Arc::clone(&written)), |_| {});
        panic_logged_to(&log, "panicked at here");
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(text.contains("panicked at here"), "{text:?}");
    }

    #[test]
    fn hanging_log_reader_delays_one_panic_and_gets_all_later() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let log = LossyWriter::start(ours, |_| {});
        // More than the socket and the queue can hold.
        log.enqueue(vec![b'x'; 16 << 20]);
        while log.lost() == 0 {
            log.enqueue(b"fills the queue\n".to_vec());
        }
        let timed = |panic: &str| {
            let begun = Instant::now();
            panic_logged_to(&log, panic);
            begun.elapsed()
        };
        let took = timed("the first");
        assert!((FINAL_FLUSH_TIMEOUT..FINAL_FLUSH_TIMEOUT * 20).contains(&took), "{took:?}");
        let took: Duration = ["the second", "the third"].map(timed).into_iter().sum();
        assert!(took < FINAL_FLUSH_TIMEOUT / 2, "{took:?}");

        let begun = Instant::now();
        let read = Arc::new(Mutex::new(Vec::new()));
        let reading = Arc::clone(&read);
        thread::spawn(move || {
            let mut part = vec![0; 1 << 20];
            while let Ok(length @ 1..) = theirs.read(&mut part) {
                reading.lock().unwrap().extend_from_slice(&part[..length]);
            }
        });
        let has_read = |words: &str| String::from_utf8_lossy(&read.lock().unwrap()).contains(words);
        while !has_read("the third") {
            assert!(begun.elapsed() < Duration::from_secs(60), "panics are not written");
            thread::sleep(Duration::from_millis(5));
        }
        assert!(has_read("the first") && has_read("the second"));
        // The next panic waits again.
        log.flush(Duration::from_secs(10));
        let took = timed("the fourth");
        assert!(took < FINAL_FLUSH_TIMEOUT, "{took:?}");
    }
}
