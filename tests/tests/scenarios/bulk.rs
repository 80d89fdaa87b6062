//! Bulk transfers arrive as they were sent, in both directions.

use slb_tests::{client::Direction, net::Family, scenario, server::Service};

/// Not a multiple of any segment size.
const BYTES: u64 = 16 * 1024 * 1024 + 7;
const CONNECTIONS: usize = 4;

#[test]
fn bulk_transfers_arrive_unchanged() {
    scenario!(&[50, 50], |world| {
        world.start()?;
        for family in Family::ALL {
            for direction in [Direction::Upload, Direction::Download] {
                world.client().bulk(world.vip(family, Service::Bulk), direction, BYTES, CONNECTIONS)?;
            }
        }
        Ok(())
    });
}
