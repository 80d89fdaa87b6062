//! The maps in a map of maps.

use std::{io, os::fd::AsFd as _};

use anyhow::Result;
use aya::maps::{MapData, MapError};

use super::syscall;

/// Times that a map in a map of maps is looked for, while others come in its place.
const LOOKS: u32 = 16;

/// Reads the one value of a map in a map of maps; `false` if there is none.
pub(super) fn look_inside<T: aya::Pod>(outer: &MapData, key: u32, value: &mut T) -> Result<bool> {
    for look in 1.. {
        let mut id = 0_u32;
        if !syscall::look_up(outer.fd().as_fd(), key, &mut id)? {
            return Ok(false);
        }
        match MapData::from_id(id) {
            Ok(inner) => return Ok(syscall::look_up(inner.fd().as_fd(), 0, value)?),
            // The id is read first and opened then: another map has come in its place meanwhile, and this one is gone.
            Err(MapError::SyscallError(error))
                if look < LOOKS && error.io_error.kind() == io::ErrorKind::NotFound => {}
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

    /// So many that some fall between a reader's look for the id and its opening of the map.
    const EXCHANGES: u32 = 300;

    #[test]
    fn a_map_is_found_while_others_come_in_its_place() {
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
                let found = look_inside(&outer, 0, &mut content);
                assert!(found.unwrap());
                assert!(content >= last, "{content} after {last}");
                last = content;
            }
        });
    }
}
