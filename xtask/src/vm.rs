//! `cargo xtask vm`: boots Debian's kernels under QEMU, and runs in each the tests that depend on the kernel.
//!
//! The guest is an initramfs of busybox, iproute2, the test programs and the modules that the tests need. It has no
//! disk, and no network of the host's. Results arrive over the serial console. QEMU emulates the processor, so KVM is
//! not needed.

mod guest;
mod kernel;
mod modules;
mod qemu;

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use ebpf_build::toolchain::Search;

pub(crate) use self::kernel::Kernel;
use self::{guest::Run, kernel::Image};
use crate::{
    packages,
    test::{self, GUEST_ONLY, Totals},
};

/// Time limits per kernel for the tests of [`VmExtent::Load`] and [`VmExtent::All`]. Emulation is slow: the verifier
/// alone takes half a minute on an idle processor.
const LIMITS: [Duration; 2] = [Duration::from_secs(900), Duration::from_secs(1800)];

/// Number of guests that run side by side. Each has one processor.
const SIDE_BY_SIDE: usize = 2;

/// Which tests run in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VmExtent {
    /// In the oldest kernel the packet cases and the counters of lost packets. In another one, scenarios with devices that
    /// the host's kernel may lack, which load the same programs.
    Load,
    /// Also random frames and many flows, and the scenarios in every kernel.
    All,
}

/// Tests of one test program, selected by parts of their names.
struct Selection {
    program: &'static str,
    /// Modules that the tests need, without the dependencies of these modules.
    modules: &'static [&'static str],
    /// Tests in [`VmExtent::Load`].
    load: &'static [&'static str],
    /// The only kernel that runs them in [`VmExtent::Load`]; `None` for every kernel.
    load_in: Option<Kernel>,
    /// Tests in [`VmExtent::All`].
    all: &'static [&'static str],
}

const SELECTIONS: [Selection; 3] = [
    Selection {
        program: "packets",
        modules: &["veth", "sch_ingress", "cls_bpf"],
        load_in: Some(Kernel::V6_1),
        load: &[
            "cases_in_the_kernel",
            "losses_are_counted_in_the_kernel",
            "jiffies_are_read_in_the_kernel",
            "vips_are_answered_for_in_the_kernel",
            "client_address_programs_attach_in_the_kernel",
        ],
        all: &["in_the_kernel"],
    },
    Selection {
        program: "decap",
        modules: &["veth"],
        load_in: None,
        load: &["decap_cases_in_the_kernel"],
        all: &["in_the_kernel"],
    },
    Selection {
        program: "scenarios",
        modules: &[
            "veth",
            "sch_ingress",
            "cls_bpf",
            "virtio_pci",
            "virtio_net",
            "8021q",
            "bonding",
            "team",
            "team_mode_roundrobin",
            "vrf",
            "ipip",
            "sit",
            "ip6_tunnel",
            "fou",
            "fou6",
        ],
        // LACP and teams run in `cargo xtask vm` only: they take as long as all of these together.
        load: &[
            "guest::vlan_device_and_bond",
            "guest::vlans",
            "guest::all_modes_work_through_bonds",
            "guest::unusable_bond_vlan_and_vrf_interfaces",
            "guest::nat_works_with_native_xdp",
            "guest::tunnels_are_decapsulated",
            "guest::gue_packets_are_decapsulated",
        ],
        load_in: Some(Kernel::V6_12),
        all: &[GUEST_ONLY],
    },
];

impl Selection {
    fn tests(&self, kernel: Kernel, extent: VmExtent, filter: Option<&str>) -> Vec<String> {
        let tests = match extent {
            VmExtent::Load if self.load_in.is_some_and(|only| only != kernel) => &[],
            VmExtent::Load => self.load,
            VmExtent::All => self.all,
        };
        match filter {
            Some(filter) if !tests.is_empty() => vec![filter.to_owned()],
            _ => tests.iter().map(|test| (*test).to_owned()).collect(),
        }
    }
}

/// Runs the tests in each kernel. A kernel that cannot be downloaded counts as skipped, which CI rejects.
///
/// # Errors
/// The tests cannot be built, or QEMU cannot be started.
pub(crate) fn run(kernels: &[Kernel], extent: VmExtent, filter: Option<&str>) -> Result<Totals> {
    let search = Search::from_env();
    let missing = packages::missing_for_vm(&search);
    if !missing.is_empty() {
        println!("skipped: vm: these packages of Debian are not here: {}", missing.join(" "));
        return Ok(Totals { skipped: kernels.len() as u64, ..Totals::default() });
    }
    let programs = test::privileged_programs()?;
    let limit = LIMITS[usize::from(extent == VmExtent::All)];
    let (mut totals, mut guests) = (Totals::default(), Vec::new());
    for kernel in kernels {
        match kernel.fetch(&search) {
            Ok(image) => {
                let runs = runs(&programs, *kernel, extent, filter)?;
                let initramfs = guest::initramfs(&search, *kernel, &image, &runs)?;
                guests.push(Guest { kernel: *kernel, image, runs, initramfs });
            }
            Err(error) => {
                println!("skipped: vm {kernel}: {error:#}");
                totals += Totals { skipped: 1, ..Totals::default() };
            }
        }
    }
    for side_by_side in guests.chunks(SIDE_BY_SIDE) {
        thread::scope(|scope| -> Result<()> {
            let running: Vec<_> =
                side_by_side.iter().map(|guest| scope.spawn(|| guest.boot(&search, limit))).collect();
            for guest in running {
                totals +=
                    guest.join().map_err(|_| anyhow!("a thread that reads a guest's console panicked"))??;
            }
            Ok(())
        })?;
    }
    Ok(totals)
}

/// A kernel and what it boots into.
struct Guest {
    kernel: Kernel,
    image: Image,
    runs: Vec<Run>,
    initramfs: PathBuf,
}

impl Guest {
    /// Boots the kernel and runs its tests. Each line of its output names the kernel.
    fn boot(&self, search: &Search, limit: Duration) -> Result<Totals> {
        let started = Instant::now();
        let label = self.kernel.to_string();
        let totals = qemu::boot(search, &label, &self.image, &self.initramfs, &self.runs, limit)?;
        println!("vm {label} ({}): {totals} in {:.0} s", self.image.release, started.elapsed().as_secs_f64());
        Ok(totals)
    }
}

/// The test programs for the guest, in order. Modules may create interfaces in every network namespace, so the program
/// that needs most modules comes last.
fn runs(
    programs: &[(String, PathBuf)],
    kernel: Kernel,
    extent: VmExtent,
    filter: Option<&str>,
) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for selection in &SELECTIONS {
        let tests = selection.tests(kernel, extent, filter);
        if !tests.is_empty() {
            let program = programs.iter().find(|(name, _)| name == selection.program);
            let (_, path) = program.with_context(|| format!("no test program {}", selection.program))?;
            let modules = selection.modules;
            runs.push(Run { name: selection.program, path: path.clone(), modules, tests });
        }
    }
    Ok(runs)
}
