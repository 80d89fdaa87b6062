//! Reads inner maps of a map of maps.

use std::{io, os::fd::AsFd as _};

use anyhow::Result;
use aya::maps::{MapData, MapError};

use super::syscall;

/// Attempts to open an inner map while others replace it.
const READ_ATTEMPTS: u32 = 16;

/// Reads the one element of an inner map; `false` if there is no inner map.
pub(super) fn read_inner<T: aya::Pod>(outer: &MapData, key: u32, value: &mut T) -> Result<bool> {
    for attempt in 1.. {
        let mut id = 0_u32;
        if !syscall::look_up(outer.fd().as_fd(), key, &mut id)? {
            return Ok(false);
        }
        match MapData::from_id(id) {
            Ok(inner) => return Ok(syscall::look_up(inner.fd().as_fd(), 0, value)?),
            // Another map has replaced this one between reading its id and opening it.
            Err(MapError::SyscallError(error))
                if attempt < READ_ATTEMPTS && error.io_error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::AsRawFd as _,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;

    /// Enough that some fall between a reader's read of the id and its opening of the map.
    const EXCHANGES: u32 = 300;

    #[test]
    fn inner_map_is_found_while_it_is_replaced() {
        let outer = MapData::from_fd(syscall::array_of_maps("EXCHANGED", 4, 1).unwrap()).unwrap();
        let exchange = |content: u32| {
            let inner = syscall::array_of(&content).unwrap();
            syscall::update_batch(outer.fd().as_fd(), &[0], &[inner.as_raw_fd() as u32]).unwrap();
        };
        exchange(0);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (1..=EXCHANGES).for_each(exchange);
                over.store(true, Ordering::Relaxed);
            });
            let mut last = 0;
            while !over.load(Ordering::Relaxed) {
                let mut content = 0;
                let found = read_inner(&outer, 0, &mut content);
                assert!(found.unwrap());
                assert!(content >= last, "{content} after {last}");
                last = content;
            }
        });
    }
}
