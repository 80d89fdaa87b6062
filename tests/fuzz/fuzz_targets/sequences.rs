//! The input is the choices of the generator: a configuration, then steps. For the whole packet path.

#![no_main]

use std::{cell::RefCell, collections::BTreeMap};

use libfuzzer_sys::fuzz_target;
use slb_oracle::{
    World,
    choices::FromBytes,
    generator::{Extent, sequence},
};
use slb_packet_host::fuzz::{Comparison, Tally, world};

/// Configurations; to build the tables of one takes as long as many sequences.
const WORLDS: u8 = 16;

/// Bytes of input for one step, about.
const STEP: usize = 24;

thread_local! {
    static COMPARISONS: RefCell<BTreeMap<u8, (&'static World, Comparison<'static>)>> = RefCell::default();
}

fuzz_target!(|data: &[u8]| {
    let Some((number, data)) = data.split_first() else { return };
    let number = number % WORLDS;
    COMPARISONS.with_borrow_mut(|comparisons| {
        let (world, comparison) = comparisons.entry(number).or_insert_with(|| {
            let world: &'static World = Box::leak(Box::new(world(1, number.into())));
            (world, Comparison::new(world))
        });
        let steps = sequence(&mut FromBytes::new(data), world, Extent::Host, data.len().div_ceil(STEP));
        let mut run = |steps: &_| comparison.run(steps, &mut None, &mut Tally::default()).err();
        if let Some(found) = run(&steps) {
            let (steps, found) = found.shrunk(steps, run);
            panic!("{}{found}", comparison.shown(&steps));
        }
    });
});
