//! Puts the measuring wrapper of the benchmarks into `OUT_DIR` as `slb-bench.o`.

fn main() {
    ebpf_build::build_script(&[ebpf_build::BENCH]);
}
