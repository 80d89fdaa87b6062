//! The tc filter that answers ARP and neighbour solicitations for VIPs.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use etherparse::PacketBuilder;
use nix::{libc, net::if_::if_nametoindex};
use slb_common::abi::rate_limit::RateLimiter;
use slb_userspace::dataplane::bpf::answers::{Answers, FilterId};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{forge::address, net::run, wait::wait_for};

const LIMIT: Duration = Duration::from_secs(10);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x51];
const ASKING: [u8; 6] = [2, 0, 0, 0, 0, 7];
const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);

/// Asks the filter in the calling thread's namespace, one of [`super::kernel::in_namespace`], by both protocols.
///
/// # Errors
/// The kernel refuses the program, or a question is not answered as it should be.
pub fn ask() -> Result<()> {
    run(Command::new("ip").args(["-batch", "-"]), "link set far up\nlink set farther up\n")?;
    let filter = FilterId::of(Path::new("/sys/fs/bpf/slb-test"));
    let mut answers = Answers::load(filter, None)?;
    let far = if_nametoindex("far")?;
    let vips = [IpAddr::V4(V4), IpAddr::V6(V6)];
    answers.set(&vips.iter().map(|vip| ((far, *vip), MAC)).collect())?;
    answers.attach("far")?;
    // The second one replaces the first.
    answers.attach("far")?;

    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
    let farther = address(if_nametoindex("farther")?, (libc::ETH_P_ALL as u16).to_be());
    socket.bind(&farther)?;
    for (question, is_answer) in
        [(request(), is_reply as fn(&[u8]) -> bool), (solicitation()?, is_advertisement)]
    {
        wait_for("an answer", LIMIT, || {
            socket.send_to(&question, &farther)?;
            let mut buffer = [MaybeUninit::<u8>::uninit(); 128];
            loop {
                match socket.recv(&mut buffer) {
                    // SAFETY: the kernel has written the first `length` bytes.
                    Ok(length) if is_answer(unsafe { buffer[..length].assume_init_ref() }) => {
                        return Ok(Some(()));
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            }
        })?;
    }
    for vip in vips {
        ensure!(answers.sent((far, vip)) > 0, "no answer for {vip} is counted");
    }
    expect_rate_limit(&socket, &farther, || answers.sent((far, vips[0])))?;
    answers.set(&BTreeMap::new())?;
    ensure!(answers.sent((far, vips[0])) == 0, "an answer for a removed VIP is counted");
    ensure!(filter.remove("far")? && !filter.remove("far")?, "the filter is removed once");
    ensure!(!filter.remove("farther")?, "an interface without a place for filters");
    ensure!(!filter.remove("missing")?, "no interface");
    Ok(())
}

/// Sends far more requests than may be answered.
fn expect_rate_limit(socket: &Socket, to: &SockAddr, sent: impl Fn() -> u64) -> Result<()> {
    let processors = thread::available_parallelism()?.get() as u64;
    let per_second = u64::from(RateLimiter::PER_SECOND) * processors;
    let (before, begun) = (sent(), Instant::now());
    for _ in 0..per_second * 6 {
        socket.send_to(&request(), to)?;
    }
    let answered = sent() - before;
    // Windows may begin and end within this time.
    let most = per_second * (begun.elapsed().as_secs() + 2);
    ensure!(answered > 0 && answered <= most, "{answered} answers, at most {most} were allowed");
    Ok(())
}

fn request() -> Vec<u8> {
    let ethernet = [&[0xff; 6][..], &ASKING, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    [&ethernet[..], &ASKING, &[192, 0, 2, 7], &[0; 6], &V4.octets()].concat()
}

fn is_reply(frame: &[u8]) -> bool {
    let expected = [&ASKING[..], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &MAC, &V4.octets(), &ASKING].concat();
    frame.starts_with(&expected)
}

/// A probe for duplicate addresses: the shortest solicitation. Its answer is longer.
fn solicitation() -> Result<Vec<u8>> {
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0x10];
    let ethernet = PacketBuilder::ethernet2(ASKING, [0x33, 0x33, 0xff, 0, 0, 0x10]);
    let mut frame = Vec::new();
    ethernet.ipv6([0; 16], group, 255).icmpv6_raw(135, 0, [0; 4]).write(&mut frame, &V6.octets())?;
    Ok(frame)
}

fn is_advertisement(frame: &[u8]) -> bool {
    frame.len() == 86
        && frame[..12] == [&[0x33, 0x33, 0, 0, 0, 1], &MAC[..]].concat()
        && (frame[54], &frame[62..78], &frame[80..]) == (136, &V6.octets()[..], &MAC[..])
}
