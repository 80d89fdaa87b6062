//! Tunnels whose path MTUs are learned.

use std::{collections::BTreeSet, net::IpAddr};

use slb_common::net::headers::protocol;
use slb_config::parse;

use super::{World, answered, run};
use crate::server::requests::ApiCommand;

const SOURCE: &str = "192.0.2.1";

impl World {
    /// Reloads a configuration with one listener, and reads the IP protocols of tunnels from [`SOURCE`].
    async fn protocols_with(&self, listener: &str) -> Vec<u8> {
        let text = format!(
            "[daemon]\ninterfaces = [\"eth0\"]\nstate_dir = {:?}\ntunnel_addresses = [\"{SOURCE}\"]\n\
             [[load_balancer]]\nname = \"shop\"\naddresses = [\"192.0.2.10\"]\n[[load_balancer.listener]]\n\
             name = \"web\"\nprotocol = \"tcp\"\nport = 80\nserver_group = \"web\"\n{listener}\n[[server_group]]\n\
             name = \"web\"\ntable_size = 251\nservers = [{{ address = \"10.0.0.1\", port = 80 }}]\n",
            self.directory.path(),
        );
        let loaded =
            Box::new(parse("test.toml", &text).unwrap_or_else(|rejected| panic!("{rejected}\n{text}")));
        answered(self.command(ApiCommand::Reload { loaded }).await).await.unwrap();
        let tunnels: BTreeSet<(IpAddr, u8)> = self.host.borrow().tunnels.clone();
        assert!(tunnels.iter().all(|(from, _)| from.to_string() == SOURCE), "{tunnels:?}");
        tunnels.into_iter().map(|(_, protocol)| protocol).collect()
    }
}

/// The kernel copies every datagram to a tunnel address for a UDP socket.
#[test]
fn errors_about_udp_are_read_only_while_a_listener_of_mode_gue_runs() {
    run(async {
        let world = World::start(&[1]).await;
        let ipip = vec![protocol::IPV4, protocol::IPV6];
        for (listener, protocols) in [
            ("mode = \"nat\"", vec![]),
            ("mode = \"ipip\"", ipip.clone()),
            ("mode = \"gue\"", vec![protocol::UDP]),
            ("mode = \"gue\"\nstate = \"stopped\"", vec![]),
            ("mode = \"ipip\"", ipip),
        ] {
            assert_eq!(world.protocols_with(listener).await, protocols, "{listener}");
        }
    });
}
