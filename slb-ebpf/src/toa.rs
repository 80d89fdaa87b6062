//! The programs of `slb-toa`, which run on a server: they give applications the client endpoint in place of SLB's local
//! address, from the TCP option of SLB (`slb_common::abi::toa`).
//!
//! The SYN alone is trusted. The options of every source-translated SYN begin with the client endpoint, or have none of
//! that kind. SLB does not check later segments, and a client could write the option itself.
#![no_std]
#![no_main]

mod runtime;

use aya_ebpf::{
    bindings::{
        BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_TCP_LISTEN_CB,
        bpf_sock_addr, bpf_sock_ops,
    },
    btf_maps::{Array, PerCpuArray, SkStorage},
    helpers::{bpf_getsockopt, bpf_setsockopt, bpf_sk_storage_get},
    macros::{btf_map, cgroup_sock_addr, sock_ops},
    programs::{SockAddrContext, SockOpsContext},
};
use slb_common::{
    abi::{
        Address,
        toa::{ClientOption, HEADER_LEN, TCP_SAVE_SYN, TOA_OUTCOMES, ToaCounters, ToaOutcome, ToaPolicy},
    },
    opaque::masked,
};

#[btf_map]
static TOA_POLICY: Array<ToaPolicy, 1> = Array::new();
#[btf_map]
static TOA_COUNTERS: PerCpuArray<ToaCounters, 1> = PerCpuArray::new();
/// The client endpoint of each connection that has one.
#[btf_map]
static TOA_CLIENTS: SkStorage<ClientOption> = SkStorage::new();

/// `SOL_TCP` and `TCP_BPF_SYN` of include/linux/socket.h and include/uapi/linux/bpf.h.
const SOL_TCP: i32 = 6;
const TCP_BPF_SYN: i32 = 1005;
/// `AF_INET`.
const AF_INET: u32 = 2;
/// `ENOSPC`: the header is longer than the buffer, which has its beginning.
const ENOSPC: i64 = 28;

/// Has the kernel save the SYNs of sockets that begin to listen, and reads that of each accepted connection.
#[sock_ops]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn slb_toa_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_LISTEN_CB => save_syns(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            let source = source(ctx.ops);
            if TOA_POLICY.get(0).is_some_and(|policy| policy.sources.contains(&source)) {
                count(established(&ctx));
            }
        }
        _ => {}
    }
    1
}

/// An application that wants the link header as well sets the option itself after this.
fn save_syns(ctx: &SockOpsContext) {
    let mut on = 1_i32;
    // SAFETY: the kernel reads four bytes.
    unsafe {
        bpf_setsockopt(ctx.ops.cast(), SOL_TCP, TCP_SAVE_SYN, (&raw mut on).cast(), size_of::<i32>() as i32)
    };
}

/// The other end of a connection.
#[inline(always)]
fn source(ops: *mut bpf_sock_ops) -> Address {
    // All fields are read first: the kernel allows loads at constant offsets only, which the compiler would join at a
    // variable one.
    // SAFETY: the context is the kernel's. Volatile: it allows single words only.
    let (family, four, six) = unsafe {
        let words = (&raw const (*ops).remote_ip6).cast::<u32>();
        (
            (&raw const (*ops).family).read_volatile(),
            (&raw const (*ops).remote_ip4).read_volatile(),
            [0, 1, 2, 3].map(|n| words.add(n).read_volatile()),
        )
    };
    // An IPv6 socket has the mapped address of an IPv4 connection.
    if family == AF_INET { Address::v4(four.to_ne_bytes()) } else { Address(six) }
}

#[inline(always)]
fn established(ctx: &SockOpsContext) -> ToaOutcome {
    let mut tcp = [0_u64; HEADER_LEN / size_of::<u64>()];
    // SAFETY: the kernel writes no more than the buffer, which holds bytes.
    let (len, tcp) = unsafe {
        let len =
            bpf_getsockopt(ctx.ops.cast(), SOL_TCP, TCP_BPF_SYN, (&raw mut tcp).cast(), HEADER_LEN as i32);
        (len, &*(&raw const tcp).cast::<[u8; HEADER_LEN]>())
    };
    if len < 0 && len != -ENOSPC {
        return ToaOutcome::NoSyn;
    }
    let Some(mut client) = ClientOption::read(tcp) else { return ToaOutcome::NoOption };
    // SAFETY: the context is the kernel's; the map copies the value.
    let stored = unsafe {
        let socket = (&raw const (*ctx.ops).__bindgen_anon_2.sk).read_volatile();
        if socket.is_null() {
            return ToaOutcome::NoMemory;
        }
        let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        let clients = (&raw const TOA_CLIENTS).cast_mut().cast();
        bpf_sk_storage_get(clients, socket.cast(), (&raw mut client).cast(), create)
    };
    if stored.is_null() { ToaOutcome::NoMemory } else { ToaOutcome::Client }
}

/// `getpeername` and `accept` of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn slb_toa_peer4(ctx: SockAddrContext) -> i32 {
    if let Some(client) = client_of(&ctx) {
        let address: *mut bpf_sock_addr = ctx.sock_addr;
        // SAFETY: the context is the kernel's, and both fields may be written here.
        unsafe {
            (&raw mut (*address).user_ip4).write_volatile(client.address.0[3]);
            (&raw mut (*address).user_port).write_volatile(client.port.into());
        }
    }
    1
}

/// `getpeername` and `accept` of an IPv6 socket, also for IPv4 connections.
#[cgroup_sock_addr(getpeername6)]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the macro's")]
fn slb_toa_peer6(ctx: SockAddrContext) -> i32 {
    if let Some(client) = client_of(&ctx) {
        let address: *mut bpf_sock_addr = ctx.sock_addr;
        // SAFETY: as above; single words.
        unsafe {
            let words = (&raw mut (*address).user_ip6).cast::<u32>();
            for (n, word) in client.address.0.iter().enumerate() {
                words.add(n).write_volatile(*word);
            }
            (&raw mut (*address).user_port).write_volatile(client.port.into());
        }
    }
    1
}

#[inline(always)]
fn client_of(ctx: &SockAddrContext) -> Option<&'static ClientOption> {
    // SAFETY: the map's values live for as long as the socket, which the kernel holds while the program runs.
    unsafe { TOA_CLIENTS.get_ptr_mut(ctx).cast_const().as_ref() }
}

#[inline(always)]
fn count(outcome: ToaOutcome) {
    if let Some(counters) = TOA_COUNTERS.get_ptr_mut(0) {
        let at = masked::<TOA_OUTCOMES>(outcome as u64);
        // SAFETY: this processor's own copy. Programs may interrupt each other, which loses a count at worst.
        unsafe { (*counters).connections[at] += 1 };
    }
}
