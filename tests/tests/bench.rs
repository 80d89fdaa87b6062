//! The benchmarks do what they say. How long it takes is not looked at.

use slb_tests::{
    bench::packet::{self, Options},
    packets::kernel::is_available,
};

/// Every kind of workload passes its own checks: verdicts, counters, flows that are there or not.
#[test]
fn packets_go_the_way_their_workloads_say() {
    if !is_available("packets_go_the_way_their_workloads_say") {
        return;
    }
    let options = Options {
        rounds: 1,
        slice: 1024,
        workloads: ["1 flow", "64k", "new", "not ours"].map(str::to_owned).to_vec(),
        ..Options::default()
    };
    let report = packet::run(&options).unwrap();
    assert!(report.workloads.len() >= 10, "{report}");
    for workload in &report.workloads {
        assert_eq!(workload.programs.len(), 4, "{report}");
        assert!(workload.programs.iter().all(|program| program.chunks == 1), "{report}");
    }
}
