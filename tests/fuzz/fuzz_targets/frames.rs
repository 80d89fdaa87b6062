//! The input is a frame behind its hardware addresses. For the parser.

#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use slb_oracle::{Arrival, Step, World, world::NEAR};
use slb_packet_host::fuzz::{Comparison, Tally, world};

thread_local! {
    static COMPARISON: RefCell<Comparison<'static>> = {
        let world: &'static World = Box::leak(Box::new(world(1, 0)));
        RefCell::new(Comparison::new(world))
    };
}

fuzz_target!(|data: &[u8]| {
    COMPARISON.with_borrow_mut(|comparison| {
        let bytes = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 0xc1], data].concat();
        let steps = [Step::Frame(Arrival { bytes, interface: NEAR })];
        if let Err(found) = comparison.run(&steps, &mut None, &mut Tally::default()) {
            panic!("{}{found}", comparison.shown(&steps));
        }
    });
});
