//! Runs the decapsulator's cases and random frames, on the host and in the kernel.

use proptest::{
    collection::vec,
    prelude::any,
    sample::select,
    strategy::{Strategy, ValueTree as _},
    test_runner::TestRunner,
};
use slb_tests::packets::{
    decap::{self, DecapKernel, on_host},
    kernel::{self, in_namespace, is_available},
    scenario::same,
};

/// Upper bound of processed instructions. A higher count shows that a compiler flag or a joined path has been lost.
const VERIFIED: u32 = 60_000;
/// The bound before Linux 6.15, whose verifier first ignored registers that are not read later. Linux 6.1 processes
/// 152,000.
const VERIFIED_BEFORE_6_15: u32 = 200_000;

#[test]
fn decap_cases_on_the_host() {
    let policy = decap::policy();
    for case in decap::all() {
        let (reason, action, out) = on_host(&policy, &case.frame);
        let name = format!("{}: {:02x?}", case.name, case.frame);
        assert_eq!(reason, case.reason, "{name}");
        let (expected_action, expected) = case.expected();
        assert_eq!(action, expected_action, "{name}");
        same("host", &out, expected).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn decap_cases_in_the_kernel() {
    if !is_available("decap_cases_in_the_kernel") {
        return;
    }
    in_namespace(|| {
        let mut kernel = DecapKernel::load(&decap::policy()).expect("the program");
        let verified = kernel.verified_instructions().expect("a number");
        println!("{verified} instructions verified");
        let limit = if kernel::release() < (6, 15) { VERIFIED_BEFORE_6_15 } else { VERIFIED };
        assert!(verified < limit, "{verified} instructions verified");
        for case in decap::all() {
            let name = format!("{}: {:02x?}", case.name, case.frame);
            let (reason, action, out) = kernel.process(&case.frame).expect("a run");
            assert_eq!(reason, case.reason, "{name}");
            let (expected_action, expected) = case.expected();
            assert_eq!(action, expected_action, "{name}");
            same("kernel", &out, expected).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    });
}

#[test]
fn decap_random_frames_in_the_kernel() {
    const FRAMES: usize = 10_000;
    if !is_available("decap_random_frames_in_the_kernel") {
        return;
    }
    in_namespace(|| {
        let policy = decap::policy();
        let mut runner = TestRunner::deterministic();
        let mut kernel = DecapKernel::load(&policy).expect("the program");
        let frames = frames();
        for number in 0..FRAMES {
            let frame = frames.new_tree(&mut runner).expect("a frame").current();
            let (reason, action, out) = on_host(&policy, &frame);
            let (in_kernel_reason, in_kernel_action, in_kernel) = kernel.process(&frame).expect("a run");
            assert_eq!(
                (in_kernel_reason, in_kernel_action),
                (reason, action),
                "frame {number}: {frame:02x?}"
            );
            same("kernel", &in_kernel, &out).unwrap_or_else(|error| panic!("frame {number}: {error}"));
        }
    });
}

/// Frames of the cases with a few changed bytes.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let cases: Vec<_> = decap::all().into_iter().map(|case| case.frame).collect();
    (select(cases), vec((0..120_usize, any::<u8>()), 0..4)).prop_map(|(mut frame, changes)| {
        for (at, byte) in changes {
            let at = at % frame.len();
            frame[at] = byte;
        }
        frame
    })
}
