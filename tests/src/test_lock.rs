//! Limits the number of worlds, in all processes of this machine together. Scenarios mostly wait, so a few disturb one
//! another little. Measurements, and scenarios with time bounds of about a second, run alone.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::geteuid;

use crate::leftovers::{ensure_bpf_fs, remove_dead};

/// Maximum number of worlds. `cargo xtask test` runs as many scenarios at a time.
pub const LANES: usize = 2;

/// Directory of the lock files: the same for all processes, writable for root only. The files stay, since waiting
/// processes hold them open.
const DIRECTORY: &str = "/run/slb-tests";
/// Interval between two attempts to lock a lane.
const PAUSE: Duration = Duration::from_millis(20);

/// Permission to have a world, until it is dropped.
#[derive(Debug)]
pub struct TestLock {
    _lanes: Vec<File>,
}

impl TestLock {
    /// Waits for a free lane, and removes leftovers of dead runs.
    ///
    /// # Errors
    /// The caller is not root, no BPF file system can be mounted, or a resource cannot be removed.
    pub fn beside_others() -> Result<Self> {
        Self::take(beside_others)
    }

    /// Waits until no other world exists, and removes leftovers of dead runs. No other world can begin meanwhile.
    ///
    /// # Errors
    /// As [`Self::beside_others`].
    pub fn alone() -> Result<Self> {
        Self::take(alone)
    }

    fn take(lanes: fn(&Path) -> Result<Vec<File>>) -> Result<Self> {
        ensure!(geteuid().is_root(), "network namespaces and XDP programs need root");
        ensure_bpf_fs()?;
        let test_lock = Self { _lanes: lanes(Path::new(DIRECTORY))? };
        remove_dead()?;
        Ok(test_lock)
    }
}

fn beside_others(directory: &Path) -> Result<Vec<File>> {
    let _gate = gate(directory)?;
    let mut lanes = lanes(directory)?;
    loop {
        for lane in 0..LANES {
            match lanes[lane].try_lock() {
                Ok(()) => return Ok(vec![lanes.swap_remove(lane)]),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(error).context("waiting for another world to end");
                }
            }
        }
        thread::sleep(PAUSE);
    }
}

fn alone(directory: &Path) -> Result<Vec<File>> {
    let _gate = gate(directory)?;
    let lanes = lanes(directory)?;
    for lane in &lanes {
        lane.lock().context("waiting for other worlds to end")?;
    }
    Ok(lanes)
}

/// Lock of the process that waits for lanes next; others wait here, so that it gets the next free one.
fn gate(directory: &Path) -> Result<File> {
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let gate = file(directory, "gate")?;
    gate.lock().context("waiting for those who wait for other worlds to end")?;
    Ok(gate)
}

fn lanes(directory: &Path) -> Result<Vec<File>> {
    (0..LANES).map(|lane| file(directory, &lane.to_string())).collect()
}

fn file(directory: &Path, name: &str) -> Result<File> {
    let path = directory.join(name);
    let file = OpenOptions::new().append(true).create(true).open(&path);
    file.with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

    use super::*;
    use crate::{client::PATIENCE, wait::wait_for};

    /// Time for which a lock must stay unavailable.
    const WHILE: Duration = Duration::from_millis(200);

    /// Waits for lanes in a new thread.
    fn waits(directory: &Path, take: fn(&Path) -> Result<Vec<File>>) -> Receiver<Vec<File>> {
        let (sender, receiver) = channel();
        let directory = directory.to_owned();
        thread::spawn(move || sender.send(take(&directory).unwrap()));
        receiver
    }

    fn is_waiting(receiver: &Receiver<Vec<File>>) -> bool {
        receiver.recv_timeout(WHILE).err() == Some(RecvTimeoutError::Timeout)
    }

    /// Waits until a thread waits for lanes.
    fn wait_at_gate(directory: &Path) {
        let gate = file(directory, "gate").unwrap();
        wait_for("a process at the gate", PATIENCE, || {
            let is_held = matches!(gate.try_lock(), Err(TryLockError::WouldBlock));
            if !is_held {
                gate.unlock()?;
            }
            Ok(is_held.then_some(()))
        })
        .unwrap();
    }

    #[test]
    fn turn_waits_while_all_lanes_are_taken() {
        let directory = tempfile::tempdir().unwrap();
        let mut taken: Vec<_> = (0..LANES).map(|_| beside_others(directory.path()).unwrap()).collect();
        let next = waits(directory.path(), beside_others);
        wait_at_gate(directory.path());
        assert!(is_waiting(&next));
        taken.pop();
        next.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn exclusive_turn_waits_for_earlier_turns_and_blocks_later_ones() {
        let directory = tempfile::tempdir().unwrap();
        let first = beside_others(directory.path()).unwrap();
        let only = waits(directory.path(), alone);
        wait_at_gate(directory.path());
        let later = waits(directory.path(), beside_others);
        assert!(is_waiting(&later), "a process waits for all of them");
        assert!(is_waiting(&only));
        drop(first);
        let lanes = only.recv_timeout(PATIENCE).unwrap();
        assert!(lanes.len() == LANES && is_waiting(&later));
        drop(lanes);
        later.recv_timeout(PATIENCE).unwrap();
    }
}
