//! The interface table: the interfaces that run the program, as the packet path sees them.
//!
//! An array of [`SLOTS`] entries; the slot is the low 16 bits of the interface's index. Members of a bond have entries
//! of their own, because frames arrive on them. The daemon changes entries while packets flow. Each word is read and
//! written as a whole.

use super::{mac_word, shared_word::SharedWord};
use crate::net::vlan::Vlan;

/// Entries of the table: one for each value of an index's low 16 bits.
pub const SLOTS: u32 = 1 << 16;
/// Most hardware addresses in the map `OWN_MACS`.
pub const MAX_OWN_MACS: u32 = 8192;

/// Role `client`: packets for VIPs may arrive.
pub const CLIENT: u16 = 1;
/// Role `server`: replies of servers may arrive.
pub const SERVER: u16 = 2;

const MAC: u64 = (1 << 48) - 1;
/// Position of the MTU in the word of the hardware address, behind the two roles.
const MTU: u32 = 50;

/// Position of a VLAN above the index of the interface below.
const VLAN: u32 = 48;

/// An entry of the table.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Interface {
    /// Index in the lower half, group in the upper half. 0 in an empty entry.
    ids: SharedWord,
    /// Hardware address in the lower 48 bits, in the byte order of a frame; roles and MTU above.
    address: SharedWord,
    /// Further own addresses, or [`NO_MAC`]. Virtual routers (VRRP) have one or two at an interface. In the entry of a
    /// VLAN device, whose interface below receives the frames: that interface's index in the lower half of the first
    /// word, and the VLAN in its upper 16 bits.
    extra_macs: [SharedWord; EXTRA_MACS],
}

/// Further addresses in an entry. More of them are in the map `OWN_MACS`, whose lookup costs more.
pub const EXTRA_MACS: usize = 2;
/// No further address. No interface has the broadcast address.
pub const NO_MAC: [u8; 6] = [0xff; 6];

/// Largest MTU in an entry, in bytes.
pub const MAX_MTU: u16 = (1 << 14) - 1;

/// The content of an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterfaceProperties {
    /// The interface's index; not 0.
    pub ifindex: u32,
    /// Index of the bond that it is a member of, else its own index. Next hops name a bond, and frames arrive on its
    /// members: both have the same group.
    pub group: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Roles: [`CLIENT`] and [`SERVER`].
    pub flags: u16,
    /// MTU in bytes, up to [`MAX_MTU`]; 0 for no bound.
    pub mtu: u16,
    /// Further own addresses, or [`NO_MAC`].
    pub extra_macs: [[u8; 6]; EXTRA_MACS],
    /// Index of the interface below a VLAN device, which runs the program in its place; 0 in any other entry.
    pub below: u32,
    /// The VLAN of a VLAN device.
    pub vlan: Vlan,
}

impl Interface {
    /// An entry with this content.
    pub const fn new(properties: &InterfaceProperties) -> Self {
        let [ids, address, first, second] = properties.words();
        let extra_macs = [SharedWord::new(first), SharedWord::new(second)];
        Self { ids: SharedWord::new(ids), address: SharedWord::new(address), extra_macs }
    }

    /// The interface's index; 0 in an empty entry.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        self.ids.load() as u32
    }

    /// See [`InterfaceProperties::group`].
    #[inline(always)]
    pub fn group(&self) -> u32 {
        (self.ids.load() >> 32) as u32
    }

    /// The hardware address in the lower 48 bits.
    #[inline(always)]
    pub fn mac(&self) -> u64 {
        self.address.load() & MAC
    }

    /// Roles: [`CLIENT`] and [`SERVER`].
    #[inline(always)]
    pub fn flags(&self) -> u16 {
        (self.address.load() >> 48) as u16 & (CLIENT | SERVER)
    }

    /// MTU in bytes; 0 for no bound.
    #[inline(always)]
    pub fn mtu(&self) -> u16 {
        (self.address.load() >> MTU) as u16
    }

    /// Whether packets of `len` bytes may leave by it.
    #[inline(always)]
    pub fn takes(&self, len: usize) -> bool {
        let mtu = self.mtu();
        mtu == 0 || len <= usize::from(mtu)
    }

    /// Whether this entry has the hardware address `mac`, which is in the lower 48 bits.
    #[inline(always)]
    pub fn has_mac(&self, mac: u64) -> bool {
        let [first, second] = &self.extra_macs;
        self.mac() == mac || first.load() == mac || second.load() == mac
    }

    /// Whether it is a VLAN device upon an interface that runs the program.
    #[inline(always)]
    pub fn is_vlan_device(&self) -> bool {
        vlan_of(self.extra_macs[0].load()).is_some()
    }

    /// The interface by which frames leave, and their VLAN; interface 0 if the entry is empty.
    #[inline(always)]
    pub fn exit(&self) -> (u32, Vlan) {
        // The words of an entry that changes may be those of the interface before.
        if self.ifindex() == 0 { (0, Vlan::NONE) } else { self.link() }
    }

    /// The link of an entry that is not empty: the interface that has its frames, and their VLAN there.
    #[inline(always)]
    pub fn link(&self) -> (u32, Vlan) {
        let word = self.extra_macs[0].load();
        vlan_of(word).map_or((self.ifindex(), Vlan::NONE), |vlan| (word as u32, vlan))
    }

    /// Replaces the content. Meanwhile a packet finds each address that both the old and the new content have. If the
    /// interface changes, a packet finds no entry before it finds the new content.
    pub fn store(&self, properties: &InterfaceProperties) {
        let [ids, address, first, second] = properties.words();
        if self.ifindex() != properties.ifindex {
            self.ids.store(0);
            self.extra_macs[0].store(NO_EXTRA_MAC);
        }
        let before = [self.extra_macs[0].load(), self.extra_macs[1].load()];
        let address_first = before.contains(&(address & MAC));
        if address_first {
            self.address.store(address);
        }
        if first == before[1] {
            self.extra_macs[0].store(first);
            self.extra_macs[1].store(second);
        } else {
            self.extra_macs[1].store(second);
            self.extra_macs[0].store(first);
        }
        if !address_first {
            self.address.store(address);
        }
        self.ids.store(ids);
    }

    /// Empties the entry.
    pub fn clear(&self) {
        self.ids.store(0);
        self.extra_macs.iter().for_each(|word| word.store(NO_EXTRA_MAC));
        self.address.store(0);
    }

    /// The content; `None` if the entry is empty.
    pub fn properties(&self) -> Option<InterfaceProperties> {
        let (below, vlan) = self.exit();
        let (first, second) = (self.extra_macs[0].load(), self.extra_macs[1].load());
        let properties = InterfaceProperties {
            ifindex: self.ifindex(),
            group: self.group(),
            mac: bytes(self.mac()),
            flags: self.flags(),
            mtu: self.mtu(),
            extra_macs: [if vlan.is_none() { bytes(first) } else { NO_MAC }, bytes(second)],
            below: if vlan.is_none() { 0 } else { below },
            vlan,
        };
        (properties.ifindex != 0).then_some(properties)
    }
}

/// The VLAN in the first word of further addresses; `None` if it holds an address or none.
#[inline(always)]
const fn vlan_of(word: u64) -> Option<Vlan> {
    // The upper bits of an address are clear. Those of no address are set, so it is a negative number.
    let upper = word as i64 >> VLAN;
    if upper > 0 { Some(Vlan(upper as u32)) } else { None }
}

impl InterfaceProperties {
    const fn words(&self) -> [u64; 4] {
        let [first, second] = self.extra_macs;
        [
            self.ifindex as u64 | (self.group as u64) << 32,
            mac_word(self.mac) | (self.flags as u64) << 48 | (self.mtu as u64) << MTU,
            if self.vlan.is_none() {
                extra_mac_word(first)
            } else {
                self.below as u64 | (self.vlan.0 as u64) << VLAN
            },
            extra_mac_word(second),
        ]
    }
}

/// The word without a further address. It has bits that no address of a frame has: a frame to the broadcast address is
/// not the interface's own.
const NO_EXTRA_MAC: u64 = u64::MAX;

/// The word of a further address.
const fn extra_mac_word(mac: [u8; 6]) -> u64 {
    let word = mac_word(mac);
    if word == mac_word(NO_MAC) { NO_EXTRA_MAC } else { word }
}

const fn bytes(mac: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, _, _] = mac.to_ne_bytes();
    [a, b, c, d, e, f]
}

/// Slot of an interface in the table.
#[inline(always)]
pub const fn slot(ifindex: u32) -> u32 {
    ifindex & (SLOTS - 1)
}

/// Key of a further hardware address in `OWN_MACS`: the address in the lower 48 bits, the interface's [`slot`] above.
#[inline(always)]
pub const fn own_mac_key(ifindex: u32, mac: u64) -> u64 {
    (slot(ifindex) as u64) << 48 | mac
}

const _: () = assert!(size_of::<Interface>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0xaa, 0xff];
    const PROPERTIES: InterfaceProperties = InterfaceProperties {
        ifindex: 0x3_0007,
        group: 9,
        mac: MAC,
        flags: CLIENT | SERVER,
        mtu: MAX_MTU,
        extra_macs: [[0, 0, 0x5e, 0, 1, 51], NO_MAC],
        below: 0,
        vlan: Vlan::NONE,
    };

    #[test]
    fn interface_entry_holds_stored_fields_until_cleared() {
        let entry = Interface::default();
        assert_eq!(entry.properties(), None);
        entry.store(&PROPERTIES);
        assert_eq!(entry.properties(), Some(PROPERTIES));
        assert_eq!((entry.ifindex(), entry.group(), entry.flags()), (0x3_0007, 9, 3));
        assert_eq!(entry.mtu(), MAX_MTU);
        assert!(entry.takes(MAX_MTU.into()) && !entry.takes(usize::from(MAX_MTU) + 1));
        assert!(Interface::new(&InterfaceProperties { mtu: 0, ..PROPERTIES }).takes(usize::MAX));
        assert_eq!(entry.mac().to_ne_bytes(), [2, 0, 0, 0, 0xaa, 0xff, 0, 0]);
        assert_eq!(Interface::new(&PROPERTIES).properties(), Some(PROPERTIES));
        entry.clear();
        assert_eq!(entry.properties(), None);
        assert!(!entry.has_mac(mac_word(MAC)) && !entry.has_mac(mac_word([0, 0, 0x5e, 0, 1, 51])));
    }

    #[test]
    fn cleared_entry_of_vlan_device_names_no_interface_below() {
        let vlan = Vlan::new(7, false);
        let device = InterfaceProperties { extra_macs: [NO_MAC; EXTRA_MACS], below: 2, vlan, ..PROPERTIES };
        let entry = Interface::new(&device);
        entry.clear();
        assert_eq!((entry.exit(), entry.is_vlan_device()), ((0, Vlan::NONE), false));
        entry.store(&PROPERTIES);
        assert_eq!(entry.properties(), Some(PROPERTIES));
        entry.store(&device);
        // A packet may come between the words of a change.
        entry.ids.store(0);
        assert_eq!(entry.exit(), (0, Vlan::NONE));
    }

    #[test]
    fn entry_of_vlan_device_names_the_interface_below_and_the_vlan() {
        let vlan = Vlan::new(4094, true);
        let properties =
            InterfaceProperties { extra_macs: [NO_MAC; EXTRA_MACS], below: 0x1_0002, vlan, ..PROPERTIES };
        let entry = Interface::new(&properties);
        assert_eq!(entry.properties(), Some(properties));
        assert_eq!((entry.exit(), entry.is_vlan_device()), ((0x1_0002, vlan), true));
        for entry in [
            Interface::new(&PROPERTIES),
            Interface::new(&InterfaceProperties { vlan: Vlan::NONE, ..properties }),
        ] {
            assert_eq!((entry.exit(), entry.is_vlan_device()), ((PROPERTIES.ifindex, Vlan::NONE), false));
        }
    }

    #[test]
    fn interface_entry_matches_only_its_own_hardware_addresses() {
        let entry = Interface::new(&PROPERTIES);
        assert!(entry.has_mac(mac_word(MAC)) && entry.has_mac(mac_word([0, 0, 0x5e, 0, 1, 51])));
        assert!(!entry.has_mac(mac_word([0, 0, 0x5e, 0, 1, 52])) && !entry.has_mac(0));
        assert!(
            !entry.has_mac(mac_word(NO_MAC)),
            "a frame to the broadcast address is not the interface's own"
        );
    }

    #[test]
    fn keys_of_own_addresses_differ_by_interface_and_address() {
        let mac = Interface::new(&PROPERTIES).mac();
        assert_ne!(own_mac_key(7, mac), own_mac_key(8, mac));
        assert_ne!(own_mac_key(7, mac), own_mac_key(7, mac ^ 1));
        assert_eq!(slot(PROPERTIES.ifindex), 7);
    }
}
