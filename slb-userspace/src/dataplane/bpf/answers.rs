//! The program that answers ARP and neighbour solicitations for VIPs. It is a filter at the ingress of interfaces (tc),
//! which holds its map. Both stay when this process ends, until the filter is removed. A pin lets later runs read the map.

mod filter_id;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    mem::ManuallyDrop,
    net::IpAddr,
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData},
    programs::{
        SchedClassifier, TcAttachType, loaded_programs,
        tc::{NlOptions, TcAttachOptions, TcError, qdisc_add_clsact},
    },
};
use nix::errno::Errno;
use slb_common::abi::announce::{AnnouncedVip, Announcement};
use slb_control::dataplane::state::{to_address, to_ip};

pub use self::filter_id::FilterId;
use super::pins::Pins;
use crate::neigh::Mac;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/slb-answer.o"));
const PROGRAM: &str = "slb_answer";
const MAP: &str = "ANNOUNCED";
/// Temporary name of its pin.
const NEW: &str = "NEW_ANNOUNCED";
/// Priority of the filter. A filter of a lower number that ends the search hides it.
pub const PRIORITY: u16 = 7;

/// A VIP at the interface with this index.
pub type VipAt = (u32, IpAddr);

/// The loaded program.
pub struct Answers {
    ebpf: Ebpf,
    announced: HashMap<MapData, AnnouncedVip, Announcement>,
    filter: FilterId,
    /// The map's pin, until the program is attached.
    new_pin: Option<NewPin>,
}

/// The pin of a map while that of an earlier run is valid. Later runs read the pin, and `slbd detach`.
struct NewPin {
    new: PathBuf,
    replaces: PathBuf,
}

impl Answers {
    /// Loads the program. It answers for nothing yet, and is at no interface. Its map is pinned, if there are `pins`.
    ///
    /// # Errors
    /// The kernel refuses it, or its map cannot be pinned.
    pub fn load(filter: FilterId, pins: Option<&Pins>) -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT).context("cannot load the BPF object")?;
        program(&mut ebpf)?.load().with_context(|| format!("the kernel refuses {PROGRAM}"))?;
        let map = ebpf.take_map(MAP).with_context(|| format!("the BPF object has no map {MAP}"))?;
        let new_pin = pins.map(|pins| NewPin { new: pins.map(NEW), replaces: pins.map(MAP) });
        if let Some(NewPin { new, .. }) = &new_pin {
            if new.exists() {
                fs::remove_file(new)?;
            }
            map.pin(new).with_context(|| format!("cannot pin {}", new.display()))?;
        }
        Ok(Self { ebpf, announced: HashMap::try_from(map)?, filter, new_pin })
    }

    /// Puts the pin of the map in place of that of an earlier run, if it has not been done.
    fn replace_pin(&mut self) -> Result<()> {
        let Some(NewPin { new, replaces }) = self.new_pin.take() else { return Ok(()) };
        fs::rename(&new, &replaces).with_context(|| format!("cannot rename {}", new.display()))
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
        let options = NlOptions { priority: PRIORITY, handle: self.filter.handle().into(), classid: None };
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
        self.replace_pin()
    }

    /// Answers that were sent since the program was loaded.
    pub fn sent(&self, at: VipAt) -> u64 {
        self.announced.get(&key(at), 0).map_or(0, |announcement| announcement.answers)
    }
}

/// VIPs that the last program of the SLB with these pins answers for. `None` without a pinned map.
///
/// # Errors
/// The map cannot be read.
pub fn answered_by_pinned(pins: &Pins) -> Result<Option<BTreeSet<VipAt>>> {
    let pin = pins.map(MAP);
    if !pin.exists() {
        return Ok(None);
    }
    let map = MapData::from_pin(&pin).with_context(|| format!("cannot open the map {}", pin.display()))?;
    read(map).map(Some)
}

/// VIPs that a loaded program answers for. None if it is another program, or no longer loaded.
///
/// # Errors
/// Its map cannot be read: the process lacks `CAP_SYS_ADMIN`, or another version has loaded it.
pub fn answered_by(id: u32) -> Result<BTreeSet<VipAt>> {
    for loaded in loaded_programs() {
        let loaded = loaded.context("cannot list BPF programs")?;
        if loaded.id() != id {
            continue;
        }
        if loaded.name() != PROGRAM.as_bytes() {
            break;
        }
        for map in loaded.map_ids().context("cannot read the maps of a program")?.unwrap_or_default() {
            let map = MapData::from_id(map).context("cannot open the map of a program")?;
            if map.info()?.name() == MAP.as_bytes() {
                return read(map);
            }
        }
    }
    Ok(BTreeSet::new())
}

fn read(map: MapData) -> Result<BTreeSet<VipAt>> {
    let announced: HashMap<_, AnnouncedVip, Announcement> = HashMap::try_from(Map::HashMap(map))?;
    let keys = announced.keys().map(|key| key.map(|key| (key.interface, to_ip(&key.address))));
    keys.collect::<Result<_, _>>().context("cannot read the map of announced VIPs")
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
