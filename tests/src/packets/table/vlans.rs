//! Next hops and clients behind VLAN devices: frames leave in the VLAN of their next hop or client path.

mod sources;

use std::net::SocketAddr;

use slb_common::{
    abi::{
        backend::Backend,
        interface::{CLIENT as FROM_CLIENTS, InterfaceProperties, SERVER},
        service::mode,
        stats::Reason,
    },
    net::vlan::Vlan,
};
use slb_userspace::dataplane::interfaces::Interfaces;

use crate::packets::{
    frames::{Builder, flag, tcp},
    scenario::{CLIENT, Expect, FlowKind, Scenario},
    world::*,
};

const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const PRIORITY: u16 = 5 << 13;

/// VLANs with a device upon the loopback interface.
const SEVEN: Vlan = Vlan::new(7, false);
const EIGHT: Vlan = Vlan::new(8, true);
/// Indexes of these devices.
const SEVEN_DEVICE: u32 = 21;
const EIGHT_DEVICE: u32 = 22;
/// The address of both.
const DEVICE_MAC: [u8; 6] = OTHER_OWN_MAC;

/// The interfaces and VLAN devices upon the loopback interface.
fn interfaces() -> Interfaces {
    let mut interfaces = interfaces_in_roles(FROM_CLIENTS | SERVER, FROM_CLIENTS | SERVER);
    for (ifindex, vlan) in [(SEVEN_DEVICE, SEVEN), (EIGHT_DEVICE, EIGHT)] {
        let (group, mac, mtu) = (ifindex, DEVICE_MAC, MTU as u16);
        let device = InterfaceProperties {
            ifindex,
            group,
            mac,
            mtu,
            below: LO,
            vlan,
            ..InterfaceProperties::default()
        };
        interfaces.insert_vlan_device(device, [LO].into_iter()).expect("indexes differ in their low bits");
    }
    interfaces
}

pub(super) fn cases() -> Vec<Scenario> {
    let families = [(CLIENT4, HTTP4, WEB4, FAR4, DISTANT4), (CLIENT6, HTTP6, WEB6, FAR6, DISTANT6)];
    let of_family = |(client, listener, server, far, distant)| {
        let lan = VlanCase { client, listener, server };
        let far = VlanCase { client, listener: far, server: distant };
        let one_way = [mode::DSR, mode::IPIP, mode::GUE].map(|mode| lan.one_way(mode));
        let both = [
            lan.server_in_vlan(),
            lan.server_in_no_vlan(),
            lan.both_in_vlans(),
            lan.finished(),
            lan.routed(),
            lan.device_removed(),
            far.client_in_vlan(),
            far.crossing(),
        ];
        both.into_iter().chain(one_way)
    };
    families.into_iter().flat_map(of_family).chain(sources::cases()).collect()
}

#[derive(Debug, Clone, Copy)]
struct VlanCase {
    client: SocketAddr,
    listener: PacketListener,
    server: PacketServer,
}

impl VlanCase {
    fn case(self, name: &str, world: PacketWorld) -> Scenario {
        Scenario::new(format!("VLANs, {}: {name}", self.client)).in_world(world).interfaces(interfaces())
    }

    fn ask(self, flags: u8) -> Builder {
        tcp(self.client, self.listener.at, flags)
    }

    fn answer(self, flags: u8) -> Builder {
        tcp(self.server.at, self.client, flags).macs(self.server.hop.peer, self.server.hop.own)
    }

    /// Forwarded to the server in this VLAN.
    fn to_server(self, vlan: Vlan, flow: FlowKind) -> Expect {
        let hop = Hop { vlan: Some(vlan), ..self.server.hop };
        Expect::ToServer(self.listener, PacketServer { hop, ..self.server }, flow)
    }

    /// Forwarded to the client by the VLAN device for this VLAN, or without a VLAN.
    fn to_client(self, vlan: Vlan) -> Expect {
        let own = if vlan.is_none() { CLIENT.own } else { DEVICE_MAC };
        Expect::ToClient(self.listener, self.server, Hop { own, vlan: Some(vlan), ..CLIENT })
    }

    fn server_in_vlan(self) -> Scenario {
        let world = PacketWorld::standard().hop_in_vlan(LAN, SEVEN);
        let wrong = Expect::Drop(Reason::WrongInterface);
        self.case("server in a VLAN, client in none", world)
            .frame(self.ask(flag::SYN).build(), self.to_server(SEVEN, FlowKind::New))
            // Another VLAN is not the path to the server.
            .frame(self.answer(flag::SYN | flag::ACK).build(), wrong)
            .frame(self.answer(flag::SYN | flag::ACK).tag(SERVICE_VLAN, 7).build(), wrong)
            .frame(self.answer(flag::SYN | flag::ACK).tag(VLAN, 7).tag(VLAN, 7).build(), wrong)
            .frame(
                self.answer(flag::SYN | flag::ACK).tag(VLAN, PRIORITY | 7).build(),
                self.to_client(Vlan::NONE),
            )
            .frame(self.ask(flag::ACK).padding(7).build(), self.to_server(SEVEN, FlowKind::Old))
            .frame(self.ask(flag::ACK).tag(VLAN, PRIORITY).build(), self.to_server(SEVEN, FlowKind::Old))
            .frame(self.answer(flag::ACK).tag(VLAN, 0).tag(VLAN, 7).build(), self.to_client(Vlan::NONE))
    }

    fn both_in_vlans(self) -> Scenario {
        let world = PacketWorld::standard().hop_in_vlan(LAN, SEVEN);
        self.case("server and client in VLANs of one trunk", world)
            .frame(self.ask(flag::SYN).tag(SERVICE_VLAN, 8).build(), self.to_server(SEVEN, FlowKind::New))
            .frame(self.answer(flag::SYN | flag::ACK).tag(VLAN, 7).build(), self.to_client(EIGHT))
            .frame(
                self.ask(flag::ACK).tag(SERVICE_VLAN, PRIORITY | 8).build(),
                self.to_server(SEVEN, FlowKind::Old),
            )
            .frame(
                self.ask(flag::ACK).tag(SERVICE_VLAN, 8).tag(VLAN, 9).build(),
                Expect::Drop(Reason::VlanCrossing),
            )
    }

    /// The device that leads to the client is removed.
    fn device_removed(self) -> Scenario {
        let back = Expect::Drop(Reason::NoInterface);
        self.case("the client's device is removed", PacketWorld::standard())
            .frame(self.ask(flag::SYN).tag(VLAN, 7).build(), self.to_server(Vlan::NONE, FlowKind::New))
            .frame(self.answer(flag::SYN | flag::ACK).build(), self.to_client(SEVEN))
            .interfaces(interfaces_in_roles(FROM_CLIENTS | SERVER, FROM_CLIENTS | SERVER))
            .frame(self.answer(flag::ACK).build(), back)
            .frame(self.answer(flag::ACK).tag(VLAN, PRIORITY).build(), back)
    }

    /// A server without a VLAN does not answer by a VLAN device, nor in two tags.
    fn server_in_no_vlan(self) -> Scenario {
        let wrong = Expect::Drop(Reason::WrongInterface);
        let answer = |kind, id| self.answer(flag::SYN | flag::ACK).tag(kind, id);
        let back = Expect::ToClient(self.listener, self.server, CLIENT);
        self.case("server and client in no VLAN", PacketWorld::standard())
            .frame(self.ask(flag::SYN).build(), Expect::ToServer(self.listener, self.server, FlowKind::New))
            .frame(answer(VLAN, 7).build(), wrong)
            .frame(answer(SERVICE_VLAN, PRIORITY | 8).build(), wrong)
            .frame(answer(VLAN, 7).tag(VLAN, 9).build(), wrong)
            .frame(answer(VLAN, 5).tag(VLAN, 6).build(), wrong)
            // SLB has no part in this VLAN.
            .frame(answer(VLAN, 5).build(), back)
            .frame(answer(VLAN, PRIORITY).build(), back)
    }

    fn client_in_vlan(self) -> Scenario {
        self.case("client in a VLAN, server in none on another interface", PacketWorld::standard())
            .frame(self.ask(flag::SYN).tag(VLAN, 7).build(), self.to_server(Vlan::NONE, FlowKind::New))
            .frame_through(FAR, self.answer(flag::SYN | flag::ACK).build(), self.to_client(SEVEN))
            .frame(self.ask(flag::ACK).tag(VLAN, 7).build(), self.to_server(Vlan::NONE, FlowKind::Old))
            .frame_through(FAR, self.answer(flag::ACK).tag(VLAN, PRIORITY).build(), self.to_client(SEVEN))
            // In the kernel all frames arrive on the same interface.
            .host_only()
    }

    /// The kernel's route to the client leaves by a VLAN device.
    fn routed(self) -> Scenario {
        self.case("client routed through a VLAN", PacketWorld::standard())
            .route(EIGHT_DEVICE, CLIENT_MAC)
            .frame(self.ask(flag::SYN).build(), Expect::ToServer(self.listener, self.server, FlowKind::New))
            .frame(self.answer(flag::SYN | flag::ACK).build(), self.to_client(EIGHT))
            .host_only()
    }

    /// Without a device for their VLAN, frames leave in it by the interface that they came in by, or not at all.
    fn crossing(self) -> Scenario {
        let five = Vlan::new(5, false);
        let crossing = Expect::Drop(Reason::VlanCrossing);
        let world = PacketWorld::standard().hop_in_vlan(ROUTER, five);
        self.case("no device for the VLAN, server on another interface", world)
            .frame(self.ask(flag::SYN).tag(VLAN, 7).build(), self.to_server(five, FlowKind::New))
            .frame(self.ask(flag::ACK).tag(VLAN, 5).build(), crossing)
            .frame(self.ask(flag::ACK).tag(VLAN, 5).tag(VLAN, 5).build(), crossing)
            .frame(self.ask(flag::ACK).build(), self.to_server(five, FlowKind::Old))
    }

    fn one_way(self, mode: u8) -> Scenario {
        let with_mode = |world: PacketWorld| world.with(self.listener, |service| service.mode = mode);
        let world = with_mode(PacketWorld::standard().hop_in_vlan(LAN, EIGHT));
        let name = match mode {
            mode::DSR => "dsr",
            mode::IPIP => "ipip",
            _ => "gue",
        };
        let crossing = Expect::Drop(Reason::VlanCrossing);
        self.case(name, world)
            .frame(self.ask(flag::SYN).build(), self.to_server(EIGHT, FlowKind::New))
            .frame(self.ask(flag::SYN).tag(VLAN, 7).build(), self.to_server(EIGHT, FlowKind::New))
            .frame(self.ask(flag::SYN).tag(SERVICE_VLAN, 8).build(), self.to_server(EIGHT, FlowKind::New))
            .frame(self.ask(flag::SYN).tag(VLAN, 5).build(), crossing)
            .frame(self.ask(flag::SYN).tag(VLAN, 8).build(), crossing)
            .frame(self.ask(flag::SYN).tag(VLAN, 5).tag(VLAN, 6).padding(3).build(), crossing)
            .frame(self.ask(flag::SYN).tag(SERVICE_VLAN, 8).tag(VLAN, 6).build(), crossing)
            .interfaces(interfaces_in_roles(FROM_CLIENTS | SERVER, FROM_CLIENTS | SERVER))
            .frame(self.ask(flag::SYN).tag(SERVICE_VLAN, 8).build(), self.to_server(EIGHT, FlowKind::New))
            .frame(self.ask(flag::SYN).tag(VLAN, 7).build(), crossing)
            .interfaces(interfaces())
            .change(with_mode(PacketWorld::standard()))
            .frame(self.ask(flag::SYN).tag(VLAN, 7).build(), self.to_server(Vlan::NONE, FlowKind::New))
    }

    /// The server is terminating: a segment of each side becomes a RST in the VLAN of the other side.
    fn finished(self) -> Scenario {
        let world = PacketWorld::standard()
            .hop_in_vlan(LAN, SEVEN)
            .flags(self.server, Backend::TERMINATING)
            .with_previous_backend(self.listener.table.expect("a table"), self.server);
        let Expect::ToServer(listener, server, flow) = self.to_server(SEVEN, FlowKind::Old) else {
            unreachable!("to a server")
        };
        self.case("resets", world)
            .frame(
                self.ask(flag::ACK).tag(SERVICE_VLAN, 8).build(),
                Expect::EndServer(listener, server, flow),
            )
            .frame(self.answer(flag::ACK).tag(VLAN, 7).build(), Expect::End)
    }
}
