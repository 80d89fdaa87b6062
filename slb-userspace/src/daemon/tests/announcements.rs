//! What is announced, and where.

use std::net::IpAddr;

use slb_config::parse;

use super::{SECOND, World, answered, run};
use crate::{announce::Wanted, server::requests::ApiCommand};

/// A load balancer with this setting of its own and of its listener.
fn balancer(name: &str, vip: &str, own: &str, listener: &str) -> String {
    format!(
        "[[load_balancer]]\nname = \"{name}\"\naddresses = [\"{vip}\"]\n{own}\n[[load_balancer.listener]]\nname = \"web\"\n\
         protocol = \"tcp\"\nport = 80\nserver_group = \"web\"\n{listener}\n"
    )
}

impl World {
    /// Reloads a configuration with these interfaces, of which `eth0` and `eth1` exist.
    async fn reload_with(&self, interfaces: &str, balancers: &[String]) {
        let text = format!(
            "[daemon]\ninterfaces = {interfaces}\nstate_dir = {:?}\n{}[[server_group]]\nname = \"web\"\ntable_size = 251\n\
             servers = [{{ address = \"10.0.0.1\", port = 8080 }}]\n",
            self.directory.path(),
            balancers.concat()
        );
        let loaded =
            Box::new(parse("test.toml", &text).unwrap_or_else(|rejected| panic!("{rejected}\n{text}")));
        answered(self.command(ApiCommand::Reload { loaded }).await).await.unwrap();
    }

    /// VIPs and interfaces that are announced.
    fn announced(&self) -> (Vec<String>, Vec<u32>) {
        let Wanted { vips, interfaces } = self.host.borrow().announced.clone();
        (vips.iter().map(IpAddr::to_string).collect(), interfaces.into_iter().collect())
    }
}

#[test]
fn only_vips_of_running_listeners_are_announced_where_clients_are() {
    run(async {
        let world = World::start(&[1]).await;
        assert_eq!(world.announced(), (vec![], vec![1]), "off by default");
        let (arp, stopped) = ("announce = \"arp\"", "state = \"stopped\"");
        let both = "announce = \"arp\"\nstate = \"stopped\"";
        let balancers = [
            balancer("shop", "192.0.2.10", arp, ""),
            balancer("routed", "192.0.2.11", "", ""),
            balancer("idle", "192.0.2.12", arp, stopped),
            balancer("stopped", "192.0.2.13", both, ""),
        ];
        let shop = vec!["192.0.2.10".to_owned()];
        for (interfaces, expected) in [
            ("[\"eth0\"]", vec![1]),
            ("[\"eth0\", { name = \"eth1\", role = \"server\" }]", vec![1]),
            ("[{ name = \"eth0\", role = \"server\" }, { name = \"eth1\", role = \"client\" }]", vec![2]),
            ("[\"eth0\", \"eth1\"]", vec![1, 2]),
            ("[\"eth1\"]", vec![2]),
        ] {
            world.reload_with(interfaces, &balancers).await;
            assert_eq!(world.announced(), (shop.clone(), expected), "{interfaces}");
        }
    });
}

#[test]
fn announcement_that_is_not_confirmed_is_rolled_back() {
    run(async {
        let world = World::start(&[1]).await;
        let first = [balancer("shop", "192.0.2.10", "announce = \"arp\"", "")];
        world.reload_with("[\"eth0\"]", &first).await;
        answered(world.apply(&[1], Some(60 * SECOND)).await).await.unwrap();
        assert_eq!(world.announced().0, Vec::<String>::new());
        tokio::time::sleep(70 * SECOND).await;
        assert_eq!(world.announced().0, ["192.0.2.10"]);
    });
}
