//! Puts the XDP programs of the benchmarks into `OUT_DIR` as `NAME.o`.

fn main() {
    if std::env::var_os("CARGO_FEATURE_CHECKS").is_some() {
        ebpf_build::build_script(&ebpf_build::BENCHMARKS);
    }
}
