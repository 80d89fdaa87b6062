//! Tests of batches on a map of the kernel.

use std::os::fd::AsFd as _;

use nix::unistd::geteuid;

use super::*;

/// BPF_MAP_TYPE_PERCPU_ARRAY.
const PERCPU_ARRAY: u32 = 6;
/// More than two batches.
const ENTRIES: u32 = 2 * PART as u32 + 10;

#[test]
fn batches_read_each_counter_of_each_cpu_once() {
    if !geteuid().is_root() {
        eprintln!("skipped: to make maps needs root");
        return;
    }
    let processors = aya::util::nr_cpus().unwrap();
    let shape = Create { map_type: PERCPU_ARRAY, max_entries: ENTRIES, ..array(16) };
    let map = create(&shape).unwrap();
    let element = |key: u32| -> Vec<[u64; 2]> {
        (0..processors as u64).map(|cpu| [u64::from(key), cpu << 32 | u64::from(key)]).collect()
    };
    let keys: Vec<u32> = (0..ENTRIES).collect();
    let values: Vec<_> = keys.iter().flat_map(|key| element(*key)).collect();
    update_batch(map.as_fd(), &keys, &values).unwrap();
    for below in [0, 1, PART as u32, PART as u32 + 1, ENTRIES - 1, ENTRIES, u32::MAX] {
        let mut read = Vec::new();
        let mut visit = |key, values: &[[u64; 2]]| read.push((key, values.to_vec()));
        for_each_below(map.as_fd(), below, processors, &mut visit).unwrap();
        let expected: Vec<_> = (0..below.min(ENTRIES)).map(|key| (key, element(key))).collect();
        assert!(read == expected, "{below}: {} elements", read.len());
    }
}
