//! The loaded measuring wrapper, and the programs that it calls.

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp},
};
use slb_bench_common::packet::{BenchControl, CHUNK, HEAD_V4, HEAD_V6, MAX_PROGRAMS, MAX_STAMPS, Stamps};

use super::workload::{PacketStream, VariedAddress};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/slb-bench-packet.o"));
const MEASURE: &str = "measure";

/// Maximum number of packets that one run can time.
pub(super) const MAX_SLICE: u64 = (MAX_STAMPS as u64 - 1) * CHUNK;

/// Odd, with bits spread over the word: packets that follow one another are no neighbours in any table.
const MULTIPLIER: u64 = 0x9e37_79b1;

/// The loaded object.
pub(super) struct Wrapper {
    ebpf: Ebpf,
    control: Array<MapData, BenchControl>,
    stamps: Array<MapData, Stamps>,
    programs: ProgramArray<MapData>,
    /// Packets sent to each program since [`Self::restart`]. Each program has its own count: with a common one, each
    /// program would see only some of the flows.
    sent: Vec<u64>,
}

/// Result of a run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SendResult {
    /// The XDP action of the last packet.
    pub(super) verdict: u32,
    /// Bytes that the program added to the last packet but one.
    pub(super) grown: i64,
    /// Nanoseconds per packet, one figure per chunk.
    pub(super) chunks: Vec<f64>,
}

impl Wrapper {
    /// Loads the object.
    pub(super) fn load() -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("cannot load the measuring wrapper")?;
        xdp(&mut ebpf, MEASURE)?.load().context("the kernel refuses the measuring wrapper")?;
        Ok(Self {
            control: map(&mut ebpf, "CONTROL")?,
            stamps: map(&mut ebpf, "STAMPS")?,
            programs: map(&mut ebpf, "PROGRAMS")?,
            ebpf,
            sent: Vec::new(),
        })
    }

    /// Adds a program of the wrapper's own object; returns its index.
    pub(super) fn add_own(&mut self, name: &str) -> Result<usize> {
        let program = xdp(&mut self.ebpf, name)?;
        program.load().with_context(|| format!("the kernel refuses `{name}`"))?;
        let fd = program.fd()?.try_clone()?;
        self.add(&fd)
    }

    /// Adds a program; returns its index.
    pub(super) fn add(&mut self, program: &ProgramFd) -> Result<usize> {
        let place = self.reserve()?;
        self.put(place, program)?;
        Ok(place)
    }

    /// Reserves an index for a program that changes with the workload.
    pub(super) fn reserve(&mut self) -> Result<usize> {
        let place = self.sent.len();
        ensure!(place < MAX_PROGRAMS, "there is room for {MAX_PROGRAMS} programs only");
        self.sent.push(0);
        Ok(place)
    }

    /// Sets or replaces the program at an index.
    pub(super) fn put(&mut self, place: usize, program: &ProgramFd) -> Result<()> {
        self.programs.set(u32::try_from(place)?, program, 0).context(
            "the kernel does not let the program be called by another one: it has to be an XDP program without support \
             for fragments, loaded with the attach type XDP, as libbpf and aya load them",
        )
    }

    /// Makes all programs start with the first flow again.
    pub(super) fn restart(&mut self) {
        self.sent.fill(0);
    }

    /// Sends packets to the program at index `place`.
    ///
    /// # Errors
    /// Not all packets were sent: the wrapper, or a program of its object, failed.
    pub(super) fn send(&mut self, place: usize, traffic: &PacketStream, packets: u64) -> Result<SendResult> {
        let length = traffic.frame.len() as u64;
        let control = BenchControl {
            template: template(&traffic.frame),
            length,
            found: 0,
            counter: self.sent[place],
            multiplier: MULTIPLIER,
            mask: traffic.flows - 1,
            sequence: 0,
            fence: 0,
            program: u32::try_from(place)?,
            is_v6: traffic.is_v6().into(),
            vary_source: all_or_none(traffic.side == VariedAddress::Source),
            vary_destination: all_or_none(traffic.side == VariedAddress::Destination),
        };
        ensure!(
            traffic.frame.len() >= if traffic.is_v6() { HEAD_V6 } else { HEAD_V4 },
            "the frame is shorter than what is written anew"
        );
        ensure!(traffic.flows.is_power_of_two(), "{} flows are no power of two", traffic.flows);
        self.control.set(0, control, 0)?;
        let result = xdp(&mut self.ebpf, MEASURE)?.test_run(TestRunOptions {
            data_in: Some(&traffic.frame),
            repeat: u32::try_from(packets)?,
            ..TestRunOptions::new()
        })?;
        let after = self.control.get(&0, 0)?;
        self.sent[place] = after.counter;
        ensure!(
            after.sequence == packets && after.counter - control.counter == packets,
            "{} packets set out and {} were made, of {packets}",
            after.sequence,
            after.counter - control.counter
        );
        Ok(SendResult {
            verdict: result.return_value,
            grown: after.found.wrapping_sub(length) as i64,
            chunks: self.chunks(packets)?,
        })
    }

    /// Chunks of the last run; empty if it had too many packets.
    fn chunks(&self, packets: u64) -> Result<Vec<f64>> {
        if packets > MAX_SLICE + 1 {
            return Ok(Vec::new());
        }
        let stamps = self.stamps.get(&0, 0)?;
        let taken = packets.div_ceil(CHUNK) as usize;
        Ok(stamps.at[..taken].windows(2).map(|pair| (pair[1] - pair[0]) as f64 / CHUNK as f64).collect())
    }
}

/// First bytes of a frame, as 64-bit words.
fn template(frame: &[u8]) -> [u64; HEAD_V6 / 8] {
    let mut head = [0; HEAD_V6];
    let len = frame.len().min(HEAD_V6);
    head[..len].copy_from_slice(&frame[..len]);
    let mut words = [0; HEAD_V6 / 8];
    for (word, bytes) in words.iter_mut().zip(head.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

const fn all_or_none(all: bool) -> u32 {
    if all { u32::MAX } else { 0 }
}

fn xdp<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Xdp> {
    Ok(ebpf
        .program_mut(name)
        .with_context(|| format!("the measuring object has no program `{name}`"))?
        .try_into()?)
}

fn map<M>(ebpf: &mut Ebpf, name: &str) -> Result<M>
where
    M: TryFrom<Map>,
    M::Error: std::error::Error + Send + Sync + 'static,
{
    let map = ebpf.take_map(name).with_context(|| format!("the measuring object has no map {name}"))?;
    map.try_into().with_context(|| format!("{name} is another kind of map"))
}
