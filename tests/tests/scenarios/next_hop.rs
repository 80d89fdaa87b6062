//! A server whose hardware address changes is followed.

use std::time::Duration;

use slb_tests::{daemon::servers, scenario, traffic::spreads, wait::wait_for};
use slb_userspace::api::types::Health;

const EXCHANGES: u64 = 400;
/// Locally administered, as the interface's own address is.
const NEW_ADDRESS: &str = "02:00:5e:10:00:01";
/// The kernel asks the old address several times before it asks everybody.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_new_hardware_address_of_a_server_is_followed() {
    scenario("a_new_hardware_address_of_a_server_is_followed", &[50, 50], |world| {
        world.start()?;
        world.net.backends[0].namespace.ip(&format!("link set dev eth0 address {NEW_ADDRESS}"))?;
        let addresses = &world.plan.servers[0].addresses;
        wait_for("the new address, on every next hop", LIMIT, || {
            let status = world.status()?;
            let followed =
                servers(&status).filter(|server| addresses.contains(&server.address.ip())).all(|server| {
                    let mac = server.next_hop.as_ref().map(|next_hop| next_hop.mac.as_str());
                    mac == Some(NEW_ADDRESS) && server.health == Health::Healthy
                });
            Ok(followed.then_some(()))
        })?;
        spreads(world, &world.plan.weights(), EXCHANGES)
    });
}
