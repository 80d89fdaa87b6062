//! Upgrades of pins on a BPF file system and in a network namespace of the test's own.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    path::PathBuf,
};

use aya::{
    EbpfLoader,
    maps::{Array, Map, MapInfo, MapType, PerCpuArray, PerCpuValues},
};
use slb_common::abi::{
    control::Control,
    local_address::LocalAddresses,
    service::{INDEX_SLOTS, ServiceIndex},
    stats::{Action, Reason, Totals},
};
use slb_config::model::XdpMode;

use super::{
    super::{
        inner_maps::InnerMaps,
        loader::{self, MapSizes},
        map_shapes::{MAP_SHAPES, SOURCES, shape},
        syscall,
    },
    old_abi::ChangedMap,
    *,
};

const SIZES: MapSizes = MapSizes { flows: 1024, backends: 64 };
/// An object whose XDP program has another name.
static DECAP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/slb-decap.o"));
/// Index of the loopback interface in each network namespace.
const LOOPBACK: u32 = 1;
const OLD: Control = Control { abi_version: 10, generation: 7, seed: 8, flow_seed: 9 };
/// Packets that the old version has counted on each CPU.
const COUNTED: u64 = 1000;
const SERVICE_INDEX: &str = "SERVICE_INDEX";
/// Words of the service index of ABI 10.
const INDEX_WORDS: usize = 149_510;

/// Runs `test` with pins of ABI 10, whose program is on the loopback interface.
fn with_old_pins(test: fn(&Pins)) {
    bpffs::in_own_bpf_fs(move |directory| {
        let pins = Pins::new(directory.join("slb"));
        pins.create(&readable_versions()).unwrap();
        make_old(&pins.of_version(10));
        test(&pins);
    });
}

/// Makes the maps of ABI 10, which differ by their control map, totals and service index.
fn make_old(old: &Pins) {
    old.create_version().unwrap();
    let mut program = loader::load(old, SIZES).unwrap();
    program.attach(&old.link(LOOPBACK), LOOPBACK, XdpMode::Generic).unwrap();
    let mut control: Array<_, Control> = map(&old.map(CONTROL)).try_into().unwrap();
    control.set(0, OLD, 0).unwrap();
    let totals = MapData::from_fd(syscall::per_cpu_array(8 * (4 * 32 + 8)).unwrap()).unwrap();
    fs::remove_file(old.map("TOTALS")).unwrap();
    totals.pin(old.map("TOTALS")).unwrap();
    let mut totals: PerCpuArray<_, [u64; 136]> = map(&old.map("TOTALS")).try_into().unwrap();
    let mut of_cpu = [0; 136];
    of_cpu[32 * Action::Forward as usize + Reason::ToServer as usize] = COUNTED;
    totals.set(0, PerCpuValues::try_from(vec![of_cpu; processors()]).unwrap(), 0).unwrap();
    fs::remove_file(old.map(SOURCES)).unwrap();
    let outer = MapData::from_fd(syscall::array_of_maps(SERVICE_INDEX, 8 * INDEX_WORDS, 1).unwrap()).unwrap();
    let words: Box<[u64; INDEX_WORDS]> =
        (0..INDEX_WORDS as u64).collect::<Box<[u64]>>().try_into().expect("the words");
    let inner = syscall::array_of(words.as_ref()).unwrap();
    syscall::update_batch(outer.fd().as_fd(), &[0], &[inner.as_raw_fd() as u32]).unwrap();
    fs::remove_file(old.map(SERVICE_INDEX)).unwrap();
    outer.pin(old.map(SERVICE_INDEX)).unwrap();
}

fn processors() -> usize {
    aya::util::nr_cpus().unwrap()
}

fn map(path: &Path) -> Map {
    Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap()
}

/// All pins and directories below the directory of all versions.
fn listing(pins: &Pins) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![pins.root().to_owned()];
    while let Some(directory) = left.pop() {
        let entries = bpffs::entries(&directory).unwrap();
        left.extend(entries.iter().filter(|entry| entry.is_dir()).cloned());
        found.extend(entries);
    }
    found.sort();
    found
}

fn program_of(pins: &Pins) -> u32 {
    let bound = pins.bound().unwrap();
    assert_eq!(bound.len(), 1, "{bound:?}");
    bound[0].1.program
}

fn map_id(path: &Path) -> u32 {
    MapInfo::from_pin(path).unwrap().id()
}

#[test]
fn upgrade_that_ends_before_its_program_runs_restores_the_old_pins() {
    with_old_pins(|pins| {
        let before = listing(pins);
        let staged = Upgrade::begin(pins).unwrap().unwrap();
        let program = loader::load(&staged.pins(), SIZES).unwrap();
        assert!(listing(pins).len() > before.len());
        drop(staged);
        assert_eq!(listing(pins), before);

        let mut committed = Upgrade::begin(pins).unwrap().unwrap();
        committed.commit().unwrap();
        assert!(pins.exist().unwrap() && pins.link(LOOPBACK).exists());
        drop((committed, program));
        assert_eq!(listing(pins), before);
    });
}

#[test]
fn finished_upgrade_has_the_flows_seeds_and_counters_of_the_old_version() {
    with_old_pins(|pins| {
        let old = pins.of_version(10);
        let (flows, program) = (map_id(&old.map("FLOWS")), program_of(&old));
        let mut upgrade = Upgrade::begin(pins).unwrap().unwrap();
        let mut new = loader::load(&upgrade.pins(), SIZES).unwrap();
        upgrade.commit().unwrap();
        upgrade.finish(&mut new).unwrap();
        assert_ne!(program_of(pins), program);
        assert_eq!(map_id(&pins.map("FLOWS")), flows, "another flow table");
        assert!(!old.version().exists());
        let control: Array<_, Control> = map(&pins.map(CONTROL)).try_into().unwrap();
        assert_eq!(control.get(&0, 0).unwrap(), Control { abi_version: ABI_VERSION, ..OLD });
        expect_totals(pins);
        expect_index(pins);
        assert_eq!(MapInfo::from_pin(pins.map(SOURCES)).unwrap().max_entries(), SIZES.flows / 4);
        assert!(Upgrade::begin(pins).unwrap().is_none());
    });
}

/// As when the driver of the only interface refuses the new program.
#[test]
fn program_that_no_link_takes_is_an_error_and_restores_the_old_pins() {
    with_old_pins(|pins| {
        let (before, program) = (listing(pins), program_of(&pins.of_version(10)));
        let mut upgrade = Upgrade::begin(pins).unwrap().unwrap();
        let new = loader::load(&upgrade.pins(), SIZES).unwrap();
        upgrade.commit().unwrap();
        let error = format!("{:#}", upgrade.conclude(false).unwrap_err());
        assert!(error.contains("ABI version 10"), "{error}");
        drop(new);
        assert_eq!(listing(pins), before);
        assert_eq!(program_of(&pins.of_version(10)), program);
    });
}

#[test]
fn link_that_holds_another_program_keeps_the_old_pins() {
    with_old_pins(|pins| {
        let old = pins.of_version(10);
        fs::remove_file(old.link(LOOPBACK)).unwrap();
        let mut other = Program::load(&mut EbpfLoader::new(), DECAP, "slb_decap").unwrap();
        other.attach(&old.link(LOOPBACK), LOOPBACK, XdpMode::Generic).unwrap();
        let (before, program) = (listing(pins), program_of(&old));
        let mut upgrade = Upgrade::begin(pins).unwrap().unwrap();
        let mut new = loader::load(&upgrade.pins(), SIZES).unwrap();
        upgrade.commit().unwrap();
        upgrade.finish(&mut new).unwrap_err();
        drop(new);
        assert_eq!(listing(pins), before);
        assert_eq!(program_of(&old), program);
    });
}

/// Another link has the new program, so there is no way back.
#[test]
fn link_that_keeps_the_old_program_leaves_both_pins_until_the_next_start() {
    with_old_pins(|pins| {
        let old = pins.of_version(10);
        let mut upgrade = Upgrade::begin(pins).unwrap().unwrap();
        let mut new = loader::load(&upgrade.pins(), SIZES).unwrap();
        upgrade.commit().unwrap();
        assert!(new.replace_in(&[pins.link(LOOPBACK)]));
        upgrade.conclude(false).unwrap();
        assert!(pins.exist().unwrap() && pins.link(LOOPBACK).exists());
        assert!(old.map("FLOWS").exists() && old.map("TOTALS").exists());
        let upgrade = Upgrade::begin(pins).unwrap().unwrap();
        upgrade.finish(&mut new).unwrap();
        assert!(!old.version().exists());
        expect_totals(pins);
    });
}

/// A daemon that is killed between the addition and the removal of the old pin.
#[test]
fn counters_are_added_once_by_an_upgrade_that_is_killed_after_the_addition() {
    fn add_and_end(old: &Path, new: &Path) -> Result<()> {
        let mut additions = abi10::ABI.changed.iter().filter_map(|changed| match changed.conversion {
            Conversion::Add(add) => Some(add),
            Conversion::Copy(_) => None,
        });
        additions.try_for_each(|add| add(old, new))?;
        anyhow::bail!("killed")
    }
    static KILLED: OldAbi = OldAbi {
        changed: &[ChangedMap {
            shape: shape("TOTALS", MapType::PerCpuArray, 4, 8 * 136, 1),
            conversion: Conversion::Add(add_and_end),
        }],
        ..abi10::ABI
    };
    with_old_pins(|pins| {
        let mut upgrade = Upgrade::begin(pins).unwrap().unwrap();
        let mut new = loader::load(&upgrade.pins(), SIZES).unwrap();
        upgrade.commit().unwrap();
        upgrade.abi = &KILLED;
        upgrade.finish(&mut new).unwrap_err();
        expect_totals(pins);
        Upgrade::begin(pins).unwrap().unwrap().finish(&mut new).unwrap();
        assert!(!pins.of_version(10).version().exists());
        expect_totals(pins);
    });
}

/// A killed daemon runs no destructors.
#[test]
fn killed_upgrade_is_continued_by_the_next_start() {
    with_old_pins(|pins| {
        let killed = |committed: bool| {
            let mut upgrade = Upgrade::begin(pins).unwrap().unwrap();
            drop(loader::load(&upgrade.pins(), SIZES).unwrap());
            if committed {
                upgrade.commit().unwrap();
            }
            std::mem::forget(upgrade);
        };
        killed(false);
        assert!(!pins.exist().unwrap(), "an old daemon would not start");
        killed(true);
        // Between the pins of the maps and those of the links.
        fs::rename(pins.link(LOOPBACK), pins.of_version(10).link(LOOPBACK)).unwrap();
        let upgrade = Upgrade::begin(pins).unwrap().unwrap();
        let mut new = loader::load(&upgrade.pins(), SIZES).unwrap();
        let program = program_of(pins);
        upgrade.finish(&mut new).unwrap();
        assert_ne!(program_of(pins), program);
        expect_totals(pins);
    });
}

/// The pin of the control map says that those of all maps are in place.
#[test]
fn commit_that_ends_halfway_is_begun_anew() {
    with_old_pins(|pins| {
        let before = listing(pins);
        let mut upgrade = Upgrade::begin(pins).unwrap().unwrap();
        pins.create_version().unwrap();
        fs::create_dir(pins.map("SERVICES")).unwrap();
        assert!(upgrade.commit().is_err(), "a pin cannot replace a directory");
        assert!(!pins.exist().unwrap());
        std::mem::forget(upgrade);
        fs::remove_dir(pins.map("SERVICES")).unwrap();
        let mut upgrade = Upgrade::begin(pins).unwrap().unwrap();
        upgrade.commit().unwrap();
        drop(upgrade);
        assert_eq!(listing(pins), before);
    });
}

#[test]
fn old_version_with_a_missing_map_is_refused_while_its_program_runs() {
    with_old_pins(|pins| {
        let old = pins.of_version(10);
        fs::remove_file(old.map("SERVICES")).unwrap();
        let before = listing(pins);
        let error = format!("{:#}", Upgrade::begin(pins).err().unwrap());
        assert!(error.contains("SERVICES") && error.contains("ABI version 10"), "{error}");
        assert_eq!(listing(pins), before);
        fs::remove_file(old.link(LOOPBACK)).unwrap();
        assert!(Upgrade::begin(pins).unwrap().is_none());
        assert!(!old.version().exists() && pins.links().exists());
    });
}

#[test]
fn pins_of_both_versions_are_removed_by_detach() {
    with_old_pins(|pins| {
        for committed in [false, true] {
            if !pins.root().exists() {
                pins.create(&readable_versions()).unwrap();
                make_old(&pins.of_version(10));
            }
            let mut upgrade = Upgrade::begin(pins).unwrap().unwrap();
            if committed {
                upgrade.commit().unwrap();
            }
            std::mem::forget(upgrade);
            pins.remove().unwrap();
            assert!(!pins.root().exists());
        }
    });
}

/// The old index is there, and has no local addresses.
fn expect_index(pins: &Pins) {
    let mut index = ServiceIndex::empty();
    let outer = MapData::from_pin(pins.map(SERVICE_INDEX)).unwrap();
    assert!(InnerMaps::new(outer).unwrap().read(0, index.as_mut()).unwrap());
    assert_eq!((index.seed, index.tunnel.v6.halves()[1]), (0, 5));
    assert_eq!(index.locals, LocalAddresses::EMPTY);
    assert_eq!(index.servers[0], 6);
    let last = index.entries[INDEX_SLOTS - 1];
    assert_eq!(last.address.halves()[0], INDEX_WORDS as u64 - 8);
}

fn expect_totals(pins: &Pins) {
    let totals: PerCpuArray<_, Totals> = map(&pins.map("TOTALS")).try_into().unwrap();
    let forwarded = |totals: &Totals| totals.packets[Action::Forward as usize][Reason::ToServer as usize];
    let forwarded: u64 = totals.get(&0, 0).unwrap().iter().map(forwarded).sum();
    assert_eq!(forwarded, COUNTED * processors() as u64);
}

/// A change of a type in a later version must not redefine an older one.
#[test]
fn maps_shared_with_older_versions_have_the_shapes_of_this_version() {
    for abi in &OLD_ABIS {
        for shape in abi.shared {
            assert!(MAP_SHAPES.contains(shape), "ABI {}: {shape:?}", abi.version);
        }
        let changed = abi.changed.iter().map(|changed| changed.shape.name);
        let mut names: Vec<_> = abi.shared.iter().map(|shape| shape.name).chain(changed).collect();
        names.extend(abi.added);
        let mut today = MAP_SHAPES.map(|shape| shape.name);
        names.sort_unstable();
        today.sort_unstable();
        assert_eq!(names, today, "ABI {}", abi.version);
    }
}
