//! The benchmark's XDP programs and their maps, loaded once per lane.

use anyhow::{Context, Result};
use aya::{
    Ebpf, Pod,
    maps::{Array, MapData, PerCpuArray},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode},
};
use slb_bench_common::pps::{ExpectedFrames, FRAME_WORDS, SERVERS, SinkCounters, Source};

use super::frame::BenchFrame;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/slb-bench-pps.o"));

/// Frames that the kernel creates in one batch. All their work is done before the next batch, so they never overflow a
/// veth ring of 256 frames.
const BATCH: u32 = 64;

/// A program of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum BenchProgram {
    Source,
    Sink,
    Sieve,
    SwapBack,
    SwapRedirect,
}

impl BenchProgram {
    fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Sink => "sink",
            Self::Sieve => "sieve",
            Self::SwapBack => "swap_back",
            Self::SwapRedirect => "swap_redirect",
        }
    }
}

/// Programs and maps. Dropping them detaches the programs.
pub(in crate::bench) struct BenchPrograms {
    ebpf: Ebpf,
}

impl BenchPrograms {
    /// Loads the object. The source can run afterwards; the others can be attached.
    pub(in crate::bench) fn load() -> Result<Self> {
        let mut programs = Self { ebpf: Ebpf::load(OBJECT).context("cannot load the benchmark's programs")? };
        programs.program(BenchProgram::Source)?.load().context("the source")?;
        Ok(programs)
    }

    /// Attaches a program in native mode to an interface of the calling thread's namespace.
    pub(in crate::bench) fn attach(&mut self, program: BenchProgram, interface: &str) -> Result<()> {
        let xdp = self.program(program)?;
        if xdp.fd().is_err() {
            xdp.load().with_context(|| format!("{program:?}"))?;
        }
        xdp.attach(interface, XdpMode::Driver).with_context(|| format!("{program:?} to {interface}"))?;
        Ok(())
    }

    /// Sets the interface to which `SwapRedirect` sends frames.
    pub(in crate::bench) fn set_out(&mut self, ifindex: u32) -> Result<()> {
        self.array("OUT")?.set(0, ifindex, 0).context("OUT")
    }

    /// Sets the frames that the sink expects.
    pub(in crate::bench) fn expect(&mut self, expected: ExpectedFrames) -> Result<()> {
        self.array("EXPECTED")?.set(0, expected, 0).context("EXPECTED")
    }

    /// Sets the frames that the source sends next. The count of sent frames continues.
    pub(in crate::bench) fn prepare(
        &mut self,
        frame: &BenchFrame,
        stride: u32,
        mask: u32,
        ifindex: u32,
    ) -> Result<()> {
        let mut map = self.array::<Source>("SOURCE")?;
        let sent = map.get(&0, 0)?.sent;
        let (ip_sum, tcp_sum) = frame.sums();
        let source =
            Source { frame: frame.words(), sent, ip_sum, tcp_sum, stride, mask, ifindex, padding: 0 };
        map.set(0, source, 0).context("SOURCE")
    }

    /// Sends frames from the calling thread's namespace and processor. All have been sent when it returns.
    pub(in crate::bench) fn send(&mut self, frames: u32) -> Result<()> {
        let options = TestRunOptions {
            data_in: Some(&[0; FRAME_WORDS * 8]),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        self.program(BenchProgram::Source)?.test_run(options).context("the kernel cannot run live frames")?;
        Ok(())
    }

    /// Number of frames sent so far.
    pub(in crate::bench) fn sent(&mut self) -> Result<u64> {
        Ok(self.array::<Source>("SOURCE")?.get(&0, 0)?.sent)
    }

    /// Frames that have arrived so far, and how many of them were processed by another processor than `cpu`.
    pub(in crate::bench) fn arrived(&mut self, cpu: usize) -> Result<(SinkCounters, u64)> {
        let map: PerCpuArray<&mut MapData, SinkCounters> =
            self.ebpf.map_mut("ARRIVED").context("no map ARRIVED")?.try_into()?;
        let mut sum = SinkCounters { expected: 0, unexpected: 0, servers: [0; SERVERS] };
        let mut elsewhere = 0;
        for (n, one) in map.get(&0, 0)?.iter().enumerate() {
            elsewhere += if n == cpu { 0 } else { one.expected };
            sum.expected += one.expected;
            sum.unexpected += one.unexpected;
            sum.servers.iter_mut().zip(one.servers).for_each(|(sum, one)| *sum += one);
        }
        Ok((sum, elsewhere))
    }

    fn program(&mut self, program: BenchProgram) -> Result<&mut Xdp> {
        let name = program.name();
        Ok(self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
    }

    fn array<T: Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, T>> {
        Ok(self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))?.try_into()?)
    }
}
