//! Puts the XDP programs into `OUT_DIR` as `NAME.o`.

fn main() {
    ebpf_build::build_script(&[ebpf_build::SLB, ebpf_build::DECAP]);
}
