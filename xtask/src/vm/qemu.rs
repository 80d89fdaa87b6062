//! Runs QEMU with a time limit, and reads its console.

use std::{
    io::{BufRead as _, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ebpf_build::toolchain::Search;

use super::{
    guest::{BEGIN, END, Run},
    kernel::Image,
};
use crate::{
    process,
    test::{Report, Totals},
};

const QEMU: &str = "qemu-system-x86_64";
/// Memory of the guest in MiB: for the unpacked initramfs and the maps.
const MEMORY: &str = "2048";
const COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off nokaslr oops=panic no_timer_check";

/// Hardware addresses of two network cards that are connected to each other. Scenarios find the cards by these
/// addresses.
const CARDS: [&str; 2] = ["52:54:00:51:4c:01", "52:54:00:51:4c:02"];

/// Attempts to boot. Under emulation, a kernel sometimes dies before its first test.
const BOOTS: u32 = 3;

/// Boots a kernel and returns the totals of its tests. A test program without a result counts as a failed test. Lines
/// of output begin with `label`.
///
/// # Errors
/// QEMU cannot be started.
pub(super) fn boot(
    search: &Search,
    label: &str,
    image: &Image,
    initramfs: &Path,
    runs: &[Run],
    limit: Duration,
) -> Result<Totals> {
    let qemu = search
        .program(QEMU)
        .with_context(|| format!("there is no {QEMU} here: run cargo xtask setup --vm"))?;
    let mut command = Command::new(qemu);
    // Without cmpxchg16b, which QEMU 7.2 emulates wrongly: it overwrites the flags register, and Linux 6.12 dies. One
    // processor only: with more, kernels have panicked while they patched code that another processor ran.
    command
        .args([
            "-accel",
            "tcg,thread=multi,tb-size=512",
            "-machine",
            "q35",
            "-cpu",
            "max,cx16=off",
            "-smp",
            "1",
        ])
        .args(["-m", MEMORY, "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(CARDS.iter().enumerate().flat_map(|(index, mac)| {
            let device = format!("virtio-net-pci,netdev=n{index},mac={mac},romfile=");
            ["-netdev".to_owned(), format!("hubport,id=n{index},hubid=0"), "-device".to_owned(), device]
        }))
        .arg("-kernel")
        .arg(&image.vmlinuz)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", COMMAND_LINE]);
    process::show(&command);
    let deadline = Instant::now() + limit;
    for _ in 1..BOOTS {
        let console = watch(&mut command, label, runs, deadline)?;
        if console.has_begun || Instant::now() > deadline {
            return Ok(console.finish(label));
        }
        println!("vm {label}: {} died before its first test; booting again", image.release);
    }
    Ok(watch(&mut command, label, runs, deadline)?.finish(label))
}

/// Reads the console until QEMU ends or the deadline passes.
fn watch(command: &mut Command, label: &str, runs: &[Run], deadline: Instant) -> Result<Console> {
    let mut child = Running(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {QEMU}"))?,
    );
    let console = child.0.stdout.take().context("no console")?;
    let mut reader = Console::new(runs);
    let lines = read(console);
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if let Some(shown) = reader.line(&line) {
                    println!("{label} | {shown}");
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                println!("vm {label}: the tests were not done in time");
                break;
            }
        }
    }
    Ok(reader)
}

/// A process that is killed when this value is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines of the console, until it closes.
fn read(console: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line);
            if sender.send(line.trim_end_matches('\r').to_owned()).is_err() {
                return;
            }
        }
    });
    lines
}

/// Reads the console and counts tests.
struct Console {
    /// Test programs without a result so far.
    open: Vec<&'static str>,
    /// Whether a test program has begun.
    has_begun: bool,
    report: Option<Report>,
    totals: Totals,
}

impl Console {
    fn new(runs: &[Run]) -> Self {
        Self {
            open: runs.iter().map(|run| run.name).collect(),
            has_begun: false,
            report: None,
            totals: Totals::default(),
        }
    }

    /// Reads a line, and returns what to show of it.
    fn line(&mut self, line: &str) -> Option<String> {
        if line.starts_with(BEGIN) {
            self.has_begun = true;
            self.report = Some(Report::default());
            return Some(line.to_owned());
        }
        if let Some((name, status)) = line.strip_prefix(END).and_then(|end| end.split_once(' ')) {
            self.open.retain(|open| *open != name);
            if let Some(report) = self.report.take() {
                self.totals += report.finish(status == "0");
            }
            return None;
        }
        match &mut self.report {
            Some(report) => report.line(line),
            None => Some(line.to_owned()),
        }
    }

    /// The totals after the console has closed.
    fn finish(mut self, label: &str) -> Totals {
        for name in self.open {
            println!("vm {label}: {name} has not come to its end");
            self.totals += Totals { failed: 1, ..Totals::default() };
        }
        self.totals
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn console(names: &[&'static str]) -> Console {
        let run = |name: &&'static str| Run { name, path: PathBuf::new(), modules: &[], tests: Vec::new() };
        Console::new(&names.iter().map(run).collect::<Vec<_>>())
    }

    #[test]
    fn tests_between_marks_are_counted() {
        let mut console = console(&["packets"]);
        for line in
            ["noise", "vm: begin packets", "test result: FAILED. 2 passed; 1 failed;", "vm: end packets 101"]
        {
            console.line(line);
        }
        assert_eq!(console.finish("6.1"), Totals { passed: 2, failed: 1, skipped: 0 });
    }

    #[test]
    fn kernel_panic_fails_each_program_without_a_result() {
        let mut console = console(&["packets", "decap"]);
        for line in ["vm: begin packets", "Kernel panic"] {
            console.line(line);
        }
        assert_eq!(console.finish("6.1"), Totals { passed: 0, failed: 2, skipped: 0 });
    }
}
