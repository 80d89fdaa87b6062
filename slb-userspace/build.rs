//! Puts the XDP program into `OUT_DIR` as `slb.o`.

fn main() {
    ebpf_build::build_script(&[ebpf_build::SLB]);
}
