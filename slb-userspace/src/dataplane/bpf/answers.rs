//! The program that answers ARP and neighbour solicitations for VIPs. It is a filter at the ingress of interfaces (tc),
//! which holds its map. Both stay when this process ends, without a pin, until the filter is removed.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    mem::ManuallyDrop,
    net::IpAddr,
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::{
        SchedClassifier, TcAttachType,
        links::Link as _,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
    },
};
use nix::errno::Errno;
use slb_common::abi::announce::{AnnouncedVip, Announcement};
use slb_control::dataplane::state::to_address;

use crate::neigh::Mac;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/slb-answer.o"));
const PROGRAM: &str = "slb_answer";
const MAP: &str = "ANNOUNCED";
/// Priority of the filter. A filter of a lower number that ends the search hides it.
pub const PRIORITY: u16 = 7;

/// A VIP at the interface with this index.
pub type VipAt = (u32, IpAddr);

/// Identifies the filter of one SLB on an interface: by the directory of its pins, as the lock of a running daemon does.
#[derive(Debug, Clone, Copy)]
pub struct FilterId(TcHandle);

impl FilterId {
    /// That of the SLB with these pins.
    pub fn of(pin_dir: &Path) -> Self {
        let mut hasher = DefaultHasher::new();
        pin_dir.hash(&mut hasher);
        // 0 lets the kernel choose.
        Self(TcHandle::from(hasher.finish() as u32 | 1))
    }

    /// Removes the filter from an interface; whether there was one.
    pub fn remove(self, interface: &str) -> bool {
        self.link(interface).and_then(|link| Ok(link.detach()?)).is_ok()
    }

    fn link(self, interface: &str) -> Result<SchedClassifierLink> {
        Ok(SchedClassifierLink::attached(interface, TcAttachType::Ingress, PRIORITY, self.0, None)?)
    }
}

/// The loaded program.
pub struct Answers {
    ebpf: Ebpf,
    announced: HashMap<MapData, AnnouncedVip, Announcement>,
    filter: FilterId,
}

impl Answers {
    /// Loads the program. It answers for nothing yet, and is at no interface.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn load(filter: FilterId) -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT).context("cannot load the BPF object")?;
        program(&mut ebpf)?.load().with_context(|| format!("the kernel refuses {PROGRAM}"))?;
        let map = ebpf.take_map(MAP).with_context(|| format!("the BPF object has no map {MAP}"))?;
        Ok(Self { ebpf, announced: HashMap::try_from(map)?, filter })
    }

    /// Answers for these VIPs, with these hardware addresses, and for no others.
    ///
    /// # Errors
    /// The map cannot be read or is full.
    pub fn set(&mut self, wanted: &BTreeMap<VipAt, Mac>) -> Result<()> {
        let known = self.announced.keys().collect::<Result<Vec<_>, _>>().context("cannot read the map")?;
        let wanted: BTreeMap<_, _> = wanted.iter().map(|(at, mac)| (words(*at), (key(*at), *mac))).collect();
        let gone = known.iter().filter(|known| !wanted.contains_key(&key_words(known)));
        for key in gone {
            self.announced.remove(key)?;
        }
        for (key, mac) in wanted.values() {
            let before = self.announced.get(key, 0).ok();
            if before.is_none_or(|before| before.mac != *mac) {
                let answers = before.map_or(0, |before| before.answers);
                let announcement = Announcement { mac: *mac, answers, ..Announcement::default() };
                self.announced.insert(key, announcement, 0).context("too many announced VIPs")?;
            }
        }
        Ok(())
    }

    /// Attaches the program to an interface. It replaces that of an earlier run at once, with no gap between them.
    ///
    /// # Errors
    /// The kernel has no BPF filters, or refuses it.
    pub fn attach(&mut self, interface: &str) -> Result<()> {
        let link = self.filter.link(interface)?;
        let options = NlOptions { priority: PRIORITY, handle: self.filter.0, classid: None };
        let program = program(&mut self.ebpf)?;
        let attached = match program.attach_to_link(link) {
            Ok(attached) => attached,
            Err(_) => {
                add_ingress(interface)?;
                program.attach_with_options(
                    interface,
                    TcAttachType::Ingress,
                    TcAttachOptions::Netlink(options),
                )?
            }
        };
        // Dropping the link would remove the filter.
        let _stays = ManuallyDrop::new(program.take_link(attached)?);
        Ok(())
    }

    /// Answers that were sent since the program was loaded.
    pub fn sent(&self, at: VipAt) -> u64 {
        self.announced.get(&key(at), 0).map_or(0, |announcement| announcement.answers)
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier> {
    let program =
        ebpf.program_mut(PROGRAM).with_context(|| format!("the BPF object has no program {PROGRAM}"))?;
    Ok(program.try_into()?)
}

/// Adds the place for filters (`clsact`), where it does not exist.
fn add_ingress(interface: &str) -> Result<()> {
    match qdisc_add_clsact(interface) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(Errno::EEXIST as i32) => Ok(()),
        Err(TcError::AlreadyAttached) => Ok(()),
        added => added.with_context(|| format!("cannot add the qdisc clsact to {interface}")),
    }
}

fn key((interface, vip): VipAt) -> AnnouncedVip {
    AnnouncedVip::new(to_address(vip), interface)
}

/// A key in an order.
fn words(at: VipAt) -> (u32, [u32; 4]) {
    key_words(&key(at))
}

fn key_words(key: &AnnouncedVip) -> (u32, [u32; 4]) {
    (key.interface, key.address.0)
}
