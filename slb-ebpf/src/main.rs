//! The XDP programs, a thin layer over slb-common, which makes all decisions.
#![no_std]
#![no_main]

mod bpf_maps;
mod cookies;
mod maps;
mod route;
mod runtime;
mod subprograms;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::{bpf_xdp_adjust_head, generated::bpf_xdp_adjust_tail},
    macros::xdp,
    programs::XdpContext,
};
use bpf_maps::BpfMaps;
use maps::{EMBEDDED, METADATA, PROGRAMS};
use slb_common::{
    abi::{
        programs::TailCalled,
        quic::CidFormat,
        source::Source,
        stats::{Action, Reason},
    },
    datapath::{
        self, Verdict,
        cookie_segments::{self, HeaderNumbers, SegmentShape},
        frame_calls::FrameCalls,
        icmp_error::{self, IcmpMessage},
        icmp_nat::{self, Translation},
        maps::Maps as _,
        metadata::{Metadata, PackedSelection, ReplacedEntry},
        parse::Packet,
        quic::{self, NamedServer},
        refusal::PackedRefusal,
        reset, toa,
    },
    net::{
        address::Address,
        ethernet,
        frame::{Frame, FrameBuffer},
        vlan::Vlan,
        vlan_tags,
    },
    opaque::{apart, opaque},
};

/// The kernel's context of one run, and so its frame.
struct Context(*mut xdp_md);

impl FrameBuffer for Context {
    #[inline(always)]
    fn frame(&mut self) -> Frame<'_> {
        // Volatile, so that bounds are read each time. The verifier then forgets the bounds that it has checked before,
        // which differ from path to path.
        // SAFETY: the context is the kernel's, which hands the frame to this program alone until it returns.
        unsafe {
            let (start, end) = (&raw const (*self.0).data, &raw const (*self.0).data_end);
            Frame::from_raw(start.read_volatile() as usize, end.read_volatile() as usize)
        }
    }

    #[inline(always)]
    fn grow(&mut self, bytes: usize) -> bool {
        // SAFETY: the context is the kernel's. Earlier frames borrow this value, so none is used afterwards.
        unsafe { bpf_xdp_adjust_head(self.0, -(bytes as i32)) == 0 }
    }

    #[inline(always)]
    fn shrink(&mut self, bytes: usize) -> bool {
        // SAFETY: as above.
        unsafe { bpf_xdp_adjust_head(self.0, bytes as i32) == 0 }
    }

    #[inline(always)]
    fn truncate(&mut self, bytes: usize) -> bool {
        // Opaque: the compiler would otherwise subtract halves of pointers.
        let tail = bytes as i32 - opaque(self.frame().len() as u64) as i32;
        // SAFETY: as above.
        unsafe { bpf_xdp_adjust_tail(self.0, tail) == 0 }
    }

    #[inline(always)]
    fn resize(&mut self, bytes: usize) -> bool {
        // The helper adds bytes, too, which are 0.
        self.truncate(bytes)
    }
}

impl FrameCalls for Context {
    type Metadata = &'static Metadata;

    #[inline(always)]
    fn parse(&mut self) -> Option<&'static Metadata> {
        slb_parse(self.0);
        METADATA.get(0)
    }

    #[inline(always)]
    fn metadata(&self) -> Option<&'static Metadata> {
        METADATA.get(0)
    }

    #[inline(always)]
    fn arrive_by(&mut self, vlan_device: u32) {
        if let Some(metadata) = METADATA.get_ptr_mut(0) {
            // SAFETY: this processor's own copy; XDP programs do not interrupt each other on one processor.
            unsafe { (*metadata).packet.vlan_device = vlan_device }
        }
    }

    #[inline(always)]
    fn refuse(&mut self, refusal: PackedRefusal) {
        if let Some(metadata) = METADATA.get_ptr_mut(0) {
            // SAFETY: as above.
            unsafe { (*metadata).refusal = refusal }
        }
    }

    #[inline(always)]
    fn begin_flow(&mut self, replaced: ReplacedEntry, named: NamedServer) {
        if let Some(metadata) = METADATA.get_ptr_mut(0) {
            // SAFETY: as above.
            unsafe {
                (*metadata).replaced = replaced;
                (*metadata).named = named;
            }
        }
    }

    #[inline(always)]
    fn select(&mut self, selection: PackedSelection) {
        if let Some(metadata) = METADATA.get_ptr_mut(0) {
            // SAFETY: as above.
            unsafe {
                (*metadata).selection = selection;
                (*metadata).source = Source::NONE;
            }
        }
    }

    #[inline(always)]
    fn translate_source(&mut self, source: Source) {
        if let Some(metadata) = METADATA.get_ptr_mut(0) {
            // SAFETY: as above.
            unsafe { (*metadata).source = source }
        }
    }

    #[inline(always)]
    fn follow(&mut self, ports: u32, selection: PackedSelection, source: Source) {
        if let Some(metadata) = METADATA.get_ptr_mut(0) {
            // SAFETY: as above.
            unsafe { (*metadata).follow(ports, selection, source) }
        }
    }

    #[inline(always)]
    fn named_server(&mut self, transport: usize, len: usize, format: CidFormat) -> NamedServer {
        NamedServer(opaque(slb_named_server(self.0, transport as u64, len as u64, format.number().into())))
    }

    #[inline(always)]
    fn parse_embedded(&mut self, packet: &Packet, minimum: u32) -> Option<&'static Metadata> {
        slb_parse_embedded(self.0, packet, minimum.into());
        EMBEDDED.get(0)
    }

    #[inline(always)]
    fn translate_icmp(
        &mut self,
        packet: &Packet,
        embedded: &Packet,
        address: &Address,
        translation: Translation,
    ) -> bool {
        slb_translate_icmp(self.0, packet, embedded, address, translation.0) != 0
    }

    #[inline(always)]
    fn translate_embedded_sequence(&mut self, packet: &Packet, embedded: &Packet, offset: u32) -> bool {
        slb_translate_embedded_sequence(self.0, packet, embedded, offset.into()) != 0
    }

    #[inline(always)]
    fn remove_priority_tags(&mut self) -> bool {
        slb_remove_priority_tags(self.0) != 0
    }

    #[inline(always)]
    fn set_vlan(&mut self, vlan: Vlan) -> bool {
        slb_set_vlan(self.0, vlan.0.into()) != 0
    }

    #[inline(always)]
    fn may_answer(&mut self, network: usize, message: IcmpMessage) -> bool {
        slb_may_answer(self.0, network as u64, message.0.into()) != 0
    }

    #[inline(always)]
    fn rewrite_to_icmp_error(&mut self, network: usize, message: IcmpMessage) -> bool {
        slb_rewrite_to_icmp_error(self.0, network as u64, message.0.into()) != 0
    }

    #[inline(always)]
    fn insert_client_option(&mut self, packet: &Packet, room: usize) -> bool {
        slb_insert_client_option(self.0, packet, room as u64) != 0
    }

    #[inline(always)]
    fn rewrite_to_rst(&mut self, network: usize, back: bool) -> bool {
        slb_rewrite_to_rst(self.0, network as u64, back.into()) != 0
    }

    #[inline(always)]
    fn rewrite_segment(&mut self, network: usize, numbers: HeaderNumbers, shape: SegmentShape) -> bool {
        slb_rewrite_segment(self.0, network as u64, numbers.0, shape.0) != 0
    }

    #[inline(always)]
    fn mark(&mut self, marks: u32, offset: u32) {
        if let Some(metadata) = METADATA.get_ptr_mut(0) {
            // SAFETY: as above.
            unsafe { (*metadata).mark(marks, offset) }
        }
    }

    #[inline(always)]
    fn offset(&self) -> u32 {
        METADATA.get(0).map_or(0, |metadata| metadata.offset)
    }

    #[inline(always)]
    fn translate_number(&mut self, transport: usize, offset: u32, is_to_server: bool) -> bool {
        slb_translate_number(self.0, transport as u64, offset.into(), is_to_server.into()) != 0
    }
}

/// [`Metadata::read`], a BPF subprogram. It writes the packet to a map, whose values the verifier does not know. So packet
/// kinds share the code after it. Its result says nothing: a global function must return a number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_parse(ctx: *mut xdp_md) -> u64 {
    if let Some(metadata) = METADATA.get_ptr_mut(0) {
        // SAFETY: this processor's own copy; XDP programs do not interrupt each other on one processor.
        unsafe { (*metadata).read(&Context(ctx).frame()) };
    }
    0
}

/// [`quic::read`], a BPF subprogram.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_named_server(ctx: *mut xdp_md, transport: u64, len: u64, format: u64) -> u64 {
    let format = CidFormat::from_number(format as u8);
    quic::read(&Context(ctx).frame(), transport as usize, len as usize, format).0
}

/// [`Metadata::read_embedded`], a BPF subprogram, as [`slb_parse`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_parse_embedded(ctx: *mut xdp_md, packet: *const Packet, minimum: u64) -> u64 {
    // SAFETY: the verifier accepts only null or a pointer to memory of that size; maps hold integers.
    if let (Some(packet), Some(metadata)) = (unsafe { packet.as_ref() }, EMBEDDED.get_ptr_mut(0)) {
        // SAFETY: as in `slb_parse`.
        unsafe { (*metadata).read_embedded(&Context(ctx).frame(), packet, minimum as u32) };
    }
    0
}

/// [`icmp_nat::translate`], a BPF subprogram.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_translate_icmp(
    ctx: *mut xdp_md,
    packet: *const Packet,
    embedded: *const Packet,
    address: *const Address,
    translation: u64,
) -> u64 {
    // SAFETY: the verifier accepts only null or a pointer to memory of that size; maps hold integers.
    let (Some(packet), Some(embedded), Some(address)) =
        (unsafe { (packet.as_ref(), embedded.as_ref(), address.as_ref()) })
    else {
        return 0;
    };
    let translation = Translation(translation);
    icmp_nat::translate(&mut Context(ctx).frame(), packet, embedded, address, translation).is_some().into()
}

/// [`icmp_nat::translate_sequence`], a BPF subprogram.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_translate_embedded_sequence(
    ctx: *mut xdp_md,
    packet: *const Packet,
    embedded: *const Packet,
    offset: u64,
) -> u64 {
    // SAFETY: as above.
    let (Some(packet), Some(embedded)) = (unsafe { (packet.as_ref(), embedded.as_ref()) }) else { return 0 };
    icmp_nat::translate_sequence(&mut Context(ctx).frame(), packet, embedded, offset as u32).is_some().into()
}

/// [`ethernet::remove_priority_tags`], a BPF subprogram.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_remove_priority_tags(ctx: *mut xdp_md) -> u64 {
    ethernet::remove_priority_tags(&mut Context(ctx)).is_some().into()
}

/// [`vlan_tags::set_vlan`], a BPF subprogram.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_set_vlan(ctx: *mut xdp_md, vlan: u64) -> u64 {
    vlan_tags::set_vlan(&mut Context(ctx), Vlan(vlan as u32)).is_some().into()
}

/// [`icmp_error::may_answer`], a BPF subprogram.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_may_answer(ctx: *mut xdp_md, network: u64, message: u64) -> u64 {
    icmp_error::may_answer(&Context(ctx).frame(), network as usize, IcmpMessage(message as u32)).into()
}

/// [`icmp_error::answer`], a BPF subprogram.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_rewrite_to_icmp_error(ctx: *mut xdp_md, network: u64, message: u64) -> u64 {
    icmp_error::answer(&mut Context(ctx), network as usize, IcmpMessage(message as u32)).is_some().into()
}

/// [`toa::insert`], a BPF subprogram.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_insert_client_option(ctx: *mut xdp_md, packet: *const Packet, room: u64) -> u64 {
    // SAFETY: the verifier accepts only null or a pointer to memory of that size; maps hold integers.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    toa::insert(&mut Context(ctx), packet, room as usize).is_some().into()
}

/// [`reset::rewrite_to_rst`], a BPF subprogram.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_rewrite_to_rst(ctx: *mut xdp_md, network: u64, back: u64) -> u64 {
    reset::rewrite_to_rst(&mut Context(ctx), network as usize, back != 0).is_some().into()
}

/// [`cookie_segments::rewrite`], a BPF subprogram.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_rewrite_segment(ctx: *mut xdp_md, network: u64, numbers: u64, shape: u64) -> u64 {
    let (numbers, shape) = (HeaderNumbers(numbers), SegmentShape(shape));
    cookie_segments::rewrite(&mut Context(ctx), network as usize, numbers, shape).is_some().into()
}

/// [`cookie_segments::translate`], a BPF subprogram.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slb_translate_number(ctx: *mut xdp_md, transport: u64, offset: u64, is_to_server: u64) -> u64 {
    let mut context = Context(ctx);
    let frame = &mut context.frame();
    cookie_segments::translate(frame, transport as usize, offset as u32, is_to_server != 0).is_some().into()
}

/// Defines an XDP program, which decides on a frame or names the next program.
macro_rules! xdp_program {
    ($(#[$doc:meta])* $name:ident = $decide:expr) => {
        $(#[$doc])*
        #[xdp]
        #[inline(always)]
        fn $name(ctx: XdpContext) -> u32 {
            let decide: fn(&mut Context, u32, &BpfMaps) -> Result<Verdict, TailCalled> = $decide;
            match decide(&mut Context(ctx.ctx), ctx.ingress_ifindex() as u32, &BpfMaps(ctx.ctx)) {
                Ok(verdict) => action(&ctx, verdict),
                Err(program) => tail_call(&ctx, program),
            }
        }
    };
}

xdp_program!(
    /// The fast path, and the entry of the XDP hook.
    slb = datapath::fast
);
xdp_program!(
    /// [`datapath::full_nat`].
    slb_full_nat = datapath::full_nat
);
xdp_program!(
    /// [`datapath::slow`].
    slb_slow = datapath::slow
);
xdp_program!(
    /// [`datapath::to_server`].
    slb_to_server = datapath::to_server
);
xdp_program!(
    /// [`datapath::new_flow`].
    slb_new_flow = datapath::new_flow
);
xdp_program!(
    /// [`datapath::source`].
    slb_source = datapath::source
);
xdp_program!(
    /// [`datapath::forward`].
    slb_forward = datapath::forward
);
xdp_program!(
    /// [`datapath::to_client`].
    slb_to_client = datapath::to_client
);
xdp_program!(
    /// [`datapath::fragment`].
    slb_fragment = datapath::fragment
);
xdp_program!(
    /// [`datapath::icmp`].
    slb_icmp = datapath::icmp
);
xdp_program!(
    /// [`datapath::refused`].
    slb_refused = |head, ifindex, maps| Ok(datapath::refused(head, ifindex, maps))
);

xdp_program!(
    /// [`datapath::syn_cookie`].
    slb_syn_cookie = datapath::syn_cookie
);
xdp_program!(
    /// [`datapath::cookie_reply`].
    slb_cookie_reply = datapath::cookie_reply
);

/// Leaves the frame to another program. Each slot is a constant: the kernel then makes a direct jump of the tail call, in
/// place of an indirect one.
#[inline(always)]
fn tail_call(ctx: &XdpContext, program: TailCalled) -> u32 {
    match program {
        TailCalled::FullNat => jump::<{ TailCalled::FullNat as u32 }>(ctx),
        TailCalled::Slow => jump::<{ TailCalled::Slow as u32 }>(ctx),
        TailCalled::ToServer => jump::<{ TailCalled::ToServer as u32 }>(ctx),
        TailCalled::NewFlow => jump::<{ TailCalled::NewFlow as u32 }>(ctx),
        TailCalled::Source => jump::<{ TailCalled::Source as u32 }>(ctx),
        TailCalled::Forward => jump::<{ TailCalled::Forward as u32 }>(ctx),
        TailCalled::ToClient => jump::<{ TailCalled::ToClient as u32 }>(ctx),
        TailCalled::Fragment => jump::<{ TailCalled::Fragment as u32 }>(ctx),
        TailCalled::Icmp => jump::<{ TailCalled::Icmp as u32 }>(ctx),
        TailCalled::Refused => jump::<{ TailCalled::Refused as u32 }>(ctx),
        TailCalled::SynCookie => jump::<{ TailCalled::SynCookie as u32 }>(ctx),
        TailCalled::CookieReply => jump::<{ TailCalled::CookieReply as u32 }>(ctx),
    }
    // The tail call failed. The host must stay reachable, so the frame is passed.
    BpfMaps(ctx.ctx).count(Action::Pass, Reason::NotReady as u32);
    xdp_action::XDP_PASS
}

/// Tail-calls the program in a slot. Returns if that fails.
#[inline(always)]
fn jump<const SLOT: u32>(ctx: &XdpContext) {
    // SAFETY: no value of the callers needs to be dropped.
    unsafe { PROGRAMS.tail_call(ctx, SLOT) };
    apart::<SLOT>();
}

#[inline(always)]
#[cfg_attr(not(feature = "debug-log"), expect(unused_variables, reason = "for the log"))]
fn action(ctx: &XdpContext, verdict: Verdict) -> u32 {
    let action = match verdict {
        Verdict::Transmit => xdp_action::XDP_TX,
        Verdict::Redirect(_) => xdp_action::XDP_REDIRECT,
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
    };
    #[cfg(feature = "debug-log")]
    aya_log_ebpf::debug!(ctx, "XDP action {}", action);
    action
}
