//! The program in the kernel with its own maps, in its own network namespace.

use std::{fs, ops::Range, path::Path, process::Command, thread};

use anyhow::{Context as _, Error, Result, ensure};
use aya::{
    maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};
use slb_common::abi::{
    DEFAULT_BACKENDS,
    flow::FlowWords,
    fragment::{FragmentKey, FragmentRecord},
    ids::{AccessListId, BackendId, ServiceId},
    stats::{self, Counters, LimitDrops},
    syn_cookie::{OffsetKey, SequenceOffset},
};
use slb_control::{
    dataplane::{
        DataPlane as _,
        access_list::Networks,
        state::{MapState, Operation, PutBackend},
    },
    diff::diff,
};
use slb_userspace::dataplane::{
    bpf::{
        flow_table::PinnedFlowTable,
        interfaces::InterfaceTable,
        loader::{self, MapSizes},
        maps::Maps,
        pins::Pins,
        xdp::{Program, ProgramStats},
    },
    interfaces::Interfaces,
};

use super::{
    host::Totals,
    world::{self, IDS},
};
use crate::leftovers::{self, RunId};

/// A small table: each case begins by clearing all entries.
const FLOW_TABLE_ENTRIES: u32 = 1024;

/// XDP actions.
pub mod action {
    /// `XDP_ABORTED`: the program failed.
    pub const ABORTED: u32 = 0;
    /// `XDP_DROP`.
    pub const DROP: u32 = 1;
    /// `XDP_PASS`: the frame goes to the kernel.
    pub const PASS: u32 = 2;
    /// `XDP_TX`: the frame leaves by the interface on which it arrived.
    pub const TX: u32 = 3;
    /// `XDP_REDIRECT`: the frame leaves by another interface.
    pub const REDIRECT: u32 = 4;
}

/// Whether this process may load programs. If not, prints that the test `name` is skipped.
pub fn is_available(name: &str) -> bool {
    let root = geteuid().is_root();
    if !root {
        println!("skipped: {name}: needs root");
    }
    root
}

/// Version and patch level of the running kernel.
///
/// # Panics
/// The kernel's release cannot be read or parsed.
pub fn release() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    (numbers.next().expect("a version"), numbers.next().expect("a patch level"))
}

/// Runs `work` on a thread in a new network namespace, which ends with the thread.
///
/// The namespace has the loopback interface, on which test frames arrive, and [`world::FAR`].
pub fn in_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            make_namespace().expect("a network namespace");
            work()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The loaded program and its maps.
pub struct Kernel {
    program: Program,
    maps: Maps,
    interfaces: InterfaceTable,
    flows: Array<MapData, FlowWords>,
    resizing: Array<MapData, u64>,
    fragments: HashMap<MapData, [u8; size_of::<FragmentKey>()], [u8; size_of::<FragmentRecord>()]>,
    sequence_offsets: HashMap<MapData, [u8; size_of::<OffsetKey>()], [u8; size_of::<SequenceOffset>()]>,
    totals: PerCpuArray<MapData, stats::Totals>,
    /// The state that the maps hold.
    held: MapState,
    /// Counters at the time of [`Self::begin`].
    before: Totals,
    pins: OwnPins,
}

impl Kernel {
    /// Loads the program with new, empty maps.
    pub fn load() -> Result<Self> {
        Self::load_sized(FLOW_TABLE_ENTRIES)
    }

    /// Loads the program with new maps, empty except [`world::interfaces`], and a flow table of this size.
    pub fn load_sized(flow_table_entries: u32) -> Result<Self> {
        let pins = own_pins()?;
        let sizes = MapSizes { flows: flow_table_entries, backends: DEFAULT_BACKENDS };
        let mut program = loader::load(&pins.0, sizes)?;
        let fragments = MapData::from_id(program.map_id("FRAGMENTS")?)?;
        let fragments = Map::from_map_data(fragments)?.try_into()?;
        let sequence_offsets =
            Map::from_map_data(MapData::from_pin(pins.0.map("SEQUENCE_OFFSETS"))?)?.try_into()?;
        let maps = Maps::open(&pins.0)?;
        let mut interfaces = InterfaceTable::open(&pins.0)?;
        interfaces.put(&world::interfaces())?;
        let flows = Map::from_map_data(MapData::from_pin(pins.0.map("FLOWS"))?)?.try_into()?;
        let resizing = Map::from_map_data(MapData::from_pin(pins.0.map("RESIZING"))?)?.try_into()?;
        let totals = Map::from_map_data(MapData::from_pin(pins.0.map("TOTALS"))?)?.try_into()?;
        let (held, before) = (MapState::default(), Totals::new());
        Ok(Self {
            program,
            maps,
            interfaces,
            flows,
            resizing,
            fragments,
            sequence_offsets,
            totals,
            held,
            before,
            pins,
        })
    }

    /// Facts about each program, from the kernel.
    ///
    /// # Errors
    /// The kernel does not report them.
    pub fn stats(&mut self) -> Result<Vec<ProgramStats>> {
        self.program.stats()
    }

    /// Sets the state, clears the flow table and resets the counters. Loading the program again would take much longer.
    pub fn begin(&mut self, state: &MapState) -> Result<()> {
        self.become_state(state)?;
        self.set_resizing(false)?;
        self.forget_flows()?;
        for id in 0..IDS {
            let (id, server) = (ServiceId::new(id), BackendId::new(id));
            let service = Box::new(state.services.get(&id).copied().unwrap_or_default());
            self.maps.apply(&Operation::PutService { id, service, is_new: true })?;
            let backend = state.backends.get(&server).copied().unwrap_or_default();
            self.maps.apply(&Operation::PutBackends(vec![PutBackend {
                id: server,
                backend,
                is_new: true,
            }]))?;
        }
        self.before = self.counted()?;
        Ok(())
    }

    /// Clears the flow table, and all totals and rate limits. The state stays.
    pub fn forget(&mut self) -> Result<()> {
        self.forget_flows()?;
        let cpus = nr_cpus().map_err(|(file, error)| Error::new(error).context(file))?;
        self.totals.set(0, PerCpuValues::try_from(vec![stats::Totals::default(); cpus])?, 0)?;
        self.before.clear();
        Ok(())
    }

    /// Clears the flow table and the records of first fragments.
    fn forget_flows(&mut self) -> Result<()> {
        for slot in 0..self.flows.len() {
            self.flows.set(slot, FlowWords::default(), 0)?;
        }
        let keys: Vec<_> = self.fragments.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| Ok(self.fragments.remove(key)?))
    }

    /// Forgets the sequence offsets of all flows.
    ///
    /// # Errors
    /// The map cannot be read or written.
    pub fn forget_sequence_offsets(&mut self) -> Result<()> {
        let keys: Vec<_> = self.sequence_offsets.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| Ok(self.sequence_offsets.remove(key)?))
    }

    /// Applies one operation beside the state that [`Self::become_state`] has set.
    pub fn apply(&mut self, operation: &Operation) -> Result<()> {
        self.maps.apply(operation)
    }

    /// Sets whether flows are being copied into the flow table.
    pub fn set_resizing(&mut self, resizing: bool) -> Result<()> {
        Ok(self.resizing.set(0, u64::from(resizing), 0)?)
    }

    /// Replaces the interface table.
    pub fn put_interfaces(&mut self, interfaces: &Interfaces) -> Result<()> {
        self.interfaces.put(interfaces)
    }

    /// Changes the maps to another state.
    pub fn become_state(&mut self, state: &MapState) -> Result<()> {
        // Another case may have used the id for another list. The daemon never changes a list under its id.
        let is_other =
            |(id, networks): &(&AccessListId, &Networks)| state.access_lists.get(id) != Some(*networks);
        let others: Vec<_> =
            self.held.access_lists.iter().filter(is_other).map(|(id, list)| (*id, list.clone())).collect();
        for (id, networks) in others {
            self.held.access_lists.remove(&id);
            self.maps.apply(&Operation::ClearAccessList(id, networks))?;
        }
        for operation in diff(&self.held, state) {
            self.maps.apply(&operation)?;
        }
        self.held = state.clone();
        Ok(())
    }

    /// Runs the program over a frame of at least 14 bytes that arrives on the loopback interface.
    ///
    /// Returns the XDP action, one of [`action`], and the frame.
    pub fn process(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        self.program.test_run(frame).with_context(|| format!("a frame of {} bytes", frame.len()))
    }

    /// The maps, opened again as a daemon does.
    pub fn maps(&self) -> Result<Maps> {
        Maps::open(&self.pins.0)
    }

    /// The flow table, opened as the GC thread does.
    pub fn flow_table(&self) -> Result<PinnedFlowTable> {
        PinnedFlowTable::open(&self.pins.0)
    }

    /// Pins the program without its maps.
    pub fn pin(&mut self, path: &Path) -> Result<()> {
        self.program.pin(path)
    }

    /// Packets by action and reason.
    pub fn totals(&self) -> Result<Totals> {
        let mut totals = self.counted()?;
        for (what, before) in &self.before {
            if let Some(packets) = totals.get_mut(what) {
                *packets -= before;
            }
        }
        totals.retain(|_, packets| *packets != 0);
        Ok(totals)
    }

    /// Traffic of a service.
    pub fn service_counters(&self, id: u32) -> Result<Counters> {
        Ok(self.maps.counters(id + 1, 0)?.service(ServiceId::new(id)))
    }

    /// Packets of a service over its limits.
    pub fn limit_drops(&self, id: u32) -> Result<LimitDrops> {
        Ok(self.maps.counters(id + 1, 0)?.limit_drops(ServiceId::new(id)))
    }

    /// Traffic of a server.
    pub fn backend_counters(&self, id: u32) -> Result<Counters> {
        Ok(self.maps.counters(0, id + 1)?.backend(BackendId::new(id)))
    }

    /// Traffic of the services with these ids, then of the servers.
    pub fn counters(&self, services: Range<u32>, servers: Range<u32>) -> Result<Vec<Counters>> {
        let counters = self.maps.counters(services.end, servers.end)?;
        let services = services.map(|id| counters.service(ServiceId::new(id)));
        Ok(services.chain(servers.map(|id| counters.backend(BackendId::new(id)))).collect())
    }

    fn counted(&self) -> Result<Totals> {
        let counters = self.maps.counters(0, 0)?;
        Ok(counters.packets().map(|(action, reason, n)| ((action as u8, reason as u32), n)).collect())
    }
}

/// Pins that are removed when this value is dropped.
pub struct OwnPins(Pins);

impl OwnPins {
    /// The pins.
    pub fn pins(&self) -> &Pins {
        &self.0
    }
}

/// A pin directory for one program. Removes what crashed runs have left.
///
/// # Errors
/// No BPF file system is mounted, and none can be.
pub fn own_pins() -> Result<OwnPins> {
    leftovers::ensure_bpf_fs()?;
    leftovers::remove_dead()?;
    let pins = OwnPins(Pins::new(RunId::next().pin_dir()));
    pins.0.create(&[])?;
    pins.0.create_version()?;
    Ok(pins)
}

impl Drop for OwnPins {
    fn drop(&mut self) {
        if let Err(error) = self.0.remove() {
            eprintln!("pins stay behind: {error:#}");
        }
    }
}

fn make_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("no network namespace of its own")?;
    let index = world::FAR.to_string();
    let status = Command::new("ip")
        .args(["link", "add", "far", "index", &index, "type", "veth", "peer", "name", "farther"])
        .status()
        .context("cannot start `ip`")?;
    ensure!(status.success(), "no pair of interfaces");
    Ok(())
}
