//! Counts frames that the kernel loses after the XDP program's verdict. The programs are at the kernel's tracepoints
//! for as long as this process runs.

use std::{collections::BTreeSet, os::fd::AsRawFd as _, sync::Mutex};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
    programs::RawTracePoint,
};
use nix::libc;
use slb_common::abi::losses::{KernelLayout, Losses};

use super::btf::Btf;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/slb-losses.o"));
const PROGRAMS: [(&str, &str); 3] = [
    ("slb_redirect_err", "xdp_redirect_err"),
    ("slb_devmap_xmit", "xdp_devmap_xmit"),
    ("slb_exception", "xdp_exception"),
];

/// The loss counters of this network namespace.
pub struct LossCounters {
    /// Dropping it detaches its programs.
    _programs: Ebpf,
    losses: Mutex<HashMap<MapData, u32, Losses>>,
}

impl LossCounters {
    /// Attaches the programs. No interface is counted yet.
    ///
    /// # Errors
    /// The kernel has no BTF, or no tracepoints for BPF.
    pub fn start() -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT).context("cannot load the BPF object")?;
        let where_from = ebpf.map_mut("LOSSES_LAYOUT").context("the BPF object has no map LOSSES_LAYOUT")?;
        Array::<_, KernelLayout>::try_from(where_from)?.set(0, layout()?, 0)?;
        for (name, tracepoint) in PROGRAMS {
            let program =
                ebpf.program_mut(name).with_context(|| format!("the BPF object has no program {name}"))?;
            let program: &mut RawTracePoint = program.try_into()?;
            program.load().with_context(|| format!("the kernel refuses {name}"))?;
            program.attach(tracepoint).with_context(|| format!("cannot attach to {tracepoint}"))?;
        }
        let losses = ebpf.take_map("LOSSES").context("the BPF object has no map LOSSES")?;
        Ok(Self { _programs: ebpf, losses: Mutex::new(HashMap::try_from(losses)?) })
    }

    /// Counts at `interfaces` only. Counters of added interfaces begin at zero.
    pub fn watch(&self, interfaces: &BTreeSet<u32>) -> Result<()> {
        let mut losses = self.losses.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = losses.keys().collect::<Result<BTreeSet<u32>, _>>()?;
        for gone in known.difference(interfaces) {
            losses.remove(gone)?;
        }
        for new in interfaces.difference(&known) {
            losses.insert(new, Losses::default(), 0)?;
        }
        Ok(())
    }

    /// Losses at an interface since it has been watched; zero for others.
    pub fn at(&self, interface: u32) -> Losses {
        let losses = self.losses.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        losses.get(&interface, 0).unwrap_or_default()
    }
}

fn layout() -> Result<KernelLayout> {
    let btf = Btf::of_kernel()?;
    Ok(KernelLayout {
        ifindex: btf.offset("net_device", "ifindex")?,
        namespace: btf.offset("net_device", "nd_net")?,
        cookie: btf.offset("net", "net_cookie")?,
        watched: cookie()?,
    })
}

/// Cookie of this network namespace, unique until the machine restarts.
fn cookie() -> Result<u64> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").context("cannot open a socket")?;
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `length` bytes, the size of `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    nix::errno::Errno::result(result).context("cannot read the cookie of the network namespace")?;
    Ok(cookie)
}

/// `SO_NETNS_COOKIE` of include/uapi/asm-generic/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;
