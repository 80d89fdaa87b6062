//! Logs: events with values as fields, on standard error.

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

use self::lossy::Lossy;

/// How long a panic and the end of the process wait for what is still to be written.
const LAST_WORDS: Duration = Duration::from_millis(500);

static LOG: OnceLock<Lossy> = OnceLock::new();

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging; `SLB_LOG` sets the level (`info` unless set), for instance `debug` or `slb_userspace::health=debug`.
///
/// A log that cannot be written, or whose reader is slow, neither ends nor delays the process: lines are lost and counted.
pub fn init(format: Format) {
    let filter = EnvFilter::try_from_env("SLB_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let is_terminal = stderr().is_terminal();
    let log = LOG.get_or_init(|| Lossy::start(stderr(), said_of_losses));
    let builder =
        fmt().with_env_filter(filter).with_writer(|| log.clone()).with_ansi(is_terminal).with_target(false);
    match format {
        Format::Text => builder.init(),
        Format::Json => builder.json().init(),
    }
    // The hook of the standard library writes to standard error itself, and waits for its reader.
    panic::set_hook(Box::new(|panic| log_panic(panic, log)));
}

/// Logs a panic, and waits a little for it to be written: it may end the process, and the thread that writes with it.
fn log_panic(panic: &dyn Display, log: &Lossy) {
    tracing::error!("{panic}");
    log.flush(LAST_WORDS);
}

fn said_of_losses(lost: u64) {
    tracing::warn!(lost, "log lines dropped: cannot write to standard error, or its reader is too slow");
}

/// Log lines that have been lost since the start.
pub fn lost() -> u64 {
    LOG.get().map_or(0, Lossy::lost)
}

/// Writes a message of its own form to the log, and waits a little for all of it to be written: before the process ends.
pub fn last_words(text: &str) {
    match LOG.get() {
        Some(log) => {
            if !text.is_empty() {
                log.say(format!("{text}\n").into_bytes());
            }
            log.flush(LAST_WORDS);
        }
        None if text.is_empty() => {}
        // Nobody can be told of a failure.
        None => drop(writeln!(stderr(), "{text}")),
    }
}

/// What is logged on this thread by `act`.
#[cfg(test)]
pub fn logged(act: impl FnOnce()) -> String {
    use std::{
        fs::File,
        io::{Read as _, Seek as _},
        sync::Arc,
    };
    let file: Arc<File> = Arc::new(tempfile::tempfile().unwrap());
    let log = fmt().with_writer(Arc::clone(&file)).with_ansi(false).finish();
    tracing::subscriber::with_default(log, act);
    let mut text = String::new();
    (&*file).rewind().unwrap();
    (&*file).read_to_string(&mut text).unwrap();
    text
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        os::unix::net::UnixStream,
        sync::{Arc, Mutex},
        thread,
        time::Instant,
    };

    use super::*;

    /// Writes late.
    struct Slow(Arc<Mutex<Vec<u8>>>);

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            thread::sleep(LAST_WORDS / 10);
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn panic_logged_to(log: &Lossy) {
        let writer = log.clone();
        let subscriber = fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        tracing::subscriber::with_default(subscriber, || log_panic(&"panicked at here", log));
    }

    #[test]
    fn panic_is_written_before_the_hook_returns() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let log = Lossy::start(Slow(Arc::clone(&written)), |_| {});
        panic_logged_to(&log);
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(text.contains("panicked at here"), "{text:?}");
    }

    #[test]
    fn reader_that_hangs_does_not_hold_a_panic_up() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let log = Lossy::start(ours, |_| {});
        // More than the socket holds.
        log.say(vec![b'x'; 16 << 20]);
        let begun = Instant::now();
        panic_logged_to(&log);
        let took = begun.elapsed();
        assert!((LAST_WORDS..LAST_WORDS * 20).contains(&took), "{took:?}");
    }
}
