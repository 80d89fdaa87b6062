//! `cargo xtask vm`: boots Debian's kernels under QEMU and runs, in each, the tests that ask the kernel.
//!
//! The guest is an initramfs of busybox, iproute2, the test programs and the modules that the tests need. It has no disk and
//! no network of the host's; its results come over the serial console. QEMU emulates the processor, so that no KVM is needed.

mod guest;
mod kernel;
mod modules;
mod qemu;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ebpf_build::toolchain::Search;

use self::guest::Run;
pub(crate) use self::kernel::Kernel;
use crate::{
    packages,
    test::{self, Totals},
};

/// How long one kernel may take for the tests of [`Extent::Load`] and of [`Extent::All`]. Emulation is slow: the verifier alone
/// takes half a minute on a processor of its own.
const LIMITS: [Duration; 2] = [Duration::from_secs(900), Duration::from_secs(1800)];

/// Which tests run in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The verifier's answer and the packet cases.
    Load,
    /// Random frames and many flows too.
    All,
}

/// Tests of a program, by parts of their names.
struct Selection {
    program: &'static str,
    /// In [`Extent::Load`].
    load: &'static [&'static str],
    /// In [`Extent::All`].
    all: &'static [&'static str],
}

const SELECTIONS: [Selection; 2] = [
    Selection { program: "packets", load: &["cases_in_the_kernel"], all: &["in_the_kernel"] },
    Selection { program: "decap", load: &["decap_cases_in_the_kernel"], all: &["in_the_kernel"] },
];

impl Selection {
    fn tests(&self, extent: Extent, filter: Option<&str>) -> Vec<String> {
        let tests = match extent {
            Extent::Load => self.load,
            Extent::All => self.all,
        };
        match filter {
            Some(filter) if !tests.is_empty() => vec![filter.to_owned()],
            _ => tests.iter().map(|test| (*test).to_owned()).collect(),
        }
    }
}

/// Runs the tests in each kernel. A kernel that cannot be had counts as skipped, which CI does not accept.
///
/// # Errors
/// The tests cannot be built, or QEMU cannot be started.
pub(crate) fn run(kernels: &[Kernel], extent: Extent, filter: Option<&str>) -> Result<Totals> {
    let search = Search::from_env();
    let missing = packages::missing_for_vm(&search);
    if !missing.is_empty() {
        println!("skipped: vm: these packages of Debian are not here: {}", missing.join(" "));
        return Ok(Totals { skipped: kernels.len() as u64, ..Totals::default() });
    }
    let programs = test::privileged_programs()?;
    let mut runs = Vec::new();
    for selection in &SELECTIONS {
        let tests = selection.tests(extent, filter);
        if !tests.is_empty() {
            let program = programs.iter().find(|(name, _)| name == selection.program);
            let (_, path) = program.with_context(|| format!("no test program {}", selection.program))?;
            runs.push(Run { name: selection.program, path: path.clone(), tests });
        }
    }
    let limit = LIMITS[usize::from(extent == Extent::All)];
    let mut totals = Totals::default();
    for kernel in kernels {
        let image = match kernel.fetch(&search) {
            Ok(image) => image,
            Err(error) => {
                println!("skipped: vm {kernel}: {error:#}");
                totals += Totals { skipped: 1, ..Totals::default() };
                continue;
            }
        };
        let started = Instant::now();
        let initramfs = guest::initramfs(&search, *kernel, &image, &runs)?;
        let in_guest = qemu::boot(&search, &image, &initramfs, &runs, limit)?;
        println!("vm {kernel} ({}): {in_guest} in {:.0} s", image.release, started.elapsed().as_secs_f64());
        totals += in_guest;
    }
    Ok(totals)
}
