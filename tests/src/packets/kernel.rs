//! The program in the kernel, over maps of its own, in a network namespace of its own.

use std::{fs, path::Path, process::Command, thread};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};
use slb_common::abi::{DEFAULT_BACKENDS, flow::FlowWords, stats::Counters};
use slb_userspace::{
    control::diff::diff,
    dataplane::{
        DataPlane as _,
        bpf::{
            interfaces::InterfaceTable,
            loader::{self, Sizes},
            maps::Maps,
            pins::Pins,
            xdp::Program,
        },
        interfaces::Interfaces,
        state::{Operation, PutBackend, State},
    },
};

use super::{
    host::Totals,
    world::{self, IDS},
};
use crate::leftovers::{self, RunId};

/// Few, because each case begins with all of them empty.
const FLOW_TABLE_ENTRIES: u32 = 1024;

/// What the kernel makes of an XDP frame.
pub mod action {
    /// The program failed.
    pub const ABORTED: u32 = 0;
    /// The frame is dropped.
    pub const DROP: u32 = 1;
    /// The frame is left to the kernel.
    pub const PASS: u32 = 2;
    /// The frame goes back out of its interface.
    pub const TX: u32 = 3;
    /// The frame goes out of another interface.
    pub const REDIRECT: u32 = 4;
}

/// Whether this process may do all this; says so on behalf of the test `name` if not.
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
/// When the kernel does not say.
pub fn release() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    (numbers.next().expect("a version"), numbers.next().expect("a patch level"))
}

/// Runs `work` on a thread in a network namespace of its own, which goes away with the thread.
///
/// In it are the loopback interface, through which test frames come in, and [`world::FAR`].
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
    /// What is in force.
    held: State,
    /// What was counted before [`Self::begin`].
    before: Totals,
    pins: OwnPins,
}

impl Kernel {
    /// Loads the program over new, empty maps.
    pub fn load() -> Result<Self> {
        Self::load_sized(FLOW_TABLE_ENTRIES)
    }

    /// Loads the program over new maps, which are empty but for [`world::interfaces`], with room for so many flows.
    pub fn load_sized(flow_table_entries: u32) -> Result<Self> {
        let pins = own_pins()?;
        let sizes = Sizes { flows: flow_table_entries, backends: DEFAULT_BACKENDS };
        let program = loader::load(&pins.0, sizes)?;
        let maps = Maps::open(&pins.0)?;
        let mut interfaces = InterfaceTable::open(&pins.0)?;
        interfaces.put(&world::interfaces())?;
        let flows = Map::from_map_data(MapData::from_pin(pins.0.map("FLOWS"))?)?.try_into()?;
        let resizing = Map::from_map_data(MapData::from_pin(pins.0.map("RESIZING"))?)?.try_into()?;
        let (held, before) = (State::default(), Totals::new());
        Ok(Self { program, maps, interfaces, flows, resizing, held, before, pins })
    }

    /// Instructions the verifier processed.
    pub fn verified_instructions(&mut self) -> Result<u32> {
        self.program.facts()?.verified_instructions.context("this kernel does not count them")
    }

    /// Puts a state in force, forgets all flows, and counts from zero: loading anew takes much longer.
    pub fn begin(&mut self, state: &State) -> Result<()> {
        self.become_state(state)?;
        self.set_resizing(false)?;
        for slot in 0..self.flows.len() {
            self.flows.set(slot, FlowWords::default(), 0)?;
        }
        for id in 0..IDS {
            let service = Box::new(state.services.get(&id).copied().unwrap_or_default());
            self.maps.apply(&Operation::PutService { id, service, fresh: true })?;
            let backend = state.backends.get(&id).copied().unwrap_or_default();
            self.maps.apply(&Operation::PutBackends(vec![PutBackend { id, backend, fresh: true }]))?;
        }
        self.before = self.counted()?;
        Ok(())
    }

    /// Says whether flows are being copied into the flow table.
    pub fn set_resizing(&mut self, resizing: bool) -> Result<()> {
        Ok(self.resizing.set(0, u64::from(resizing), 0)?)
    }

    /// Replaces the interface table.
    pub fn put_interfaces(&mut self, interfaces: &Interfaces) -> Result<()> {
        self.interfaces.put(interfaces)
    }

    /// Puts another state in force.
    pub fn become_state(&mut self, state: &State) -> Result<()> {
        for operation in diff(&self.held, state) {
            self.maps.apply(&operation)?;
        }
        self.held = state.clone();
        Ok(())
    }

    /// Runs the program over a frame of at least 14 bytes that came in through the loopback interface.
    ///
    /// Returns one of [`action`] and the frame.
    pub fn process(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        self.program.test_run(frame).with_context(|| format!("a frame of {} bytes", frame.len()))
    }

    /// The maps, opened once more, as by a daemon.
    pub fn maps(&self) -> Result<Maps> {
        Maps::open(&self.pins.0)
    }

    /// Pins the program, apart from its maps.
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
        self.maps.service_counters(id)
    }

    /// Traffic of a server.
    pub fn backend_counters(&self, id: u32) -> Result<Counters> {
        self.maps.backend_counters(id)
    }

    fn counted(&self) -> Result<Totals> {
        let totals = self.maps.totals()?;
        Ok(totals.into_iter().map(|(action, reason, n)| ((action as u8, reason as u32), n)).collect())
    }
}

/// Pins that go away with this value.
pub struct OwnPins(Pins);

impl OwnPins {
    /// The pins.
    pub fn pins(&self) -> &Pins {
        &self.0
    }
}

/// Pins of its own for a program. What dead runs have left is removed.
///
/// # Errors
/// There is no BPF file system, and none can be mounted.
pub fn own_pins() -> Result<OwnPins> {
    leftovers::ensure_bpf_fs()?;
    leftovers::remove_dead()?;
    let pins = OwnPins(Pins::new(RunId::next().pin_dir()));
    pins.0.create()?;
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
