//! Sequences are determined by their choices.

use slb_oracle::{
    Arrival, Step,
    choices::{Choices, FromBytes, Seeded},
    generator::{Extent, sequence, world},
    soundness::is_sound,
};

fn steps(choices: &mut impl Choices, extent: Extent) -> Vec<Step> {
    let world = world(&mut Seeded::new(7));
    sequence(choices, &world, extent, 200)
}

#[test]
fn equal_choices_make_equal_sequences() {
    let seeded = |seed| steps(&mut Seeded::new(seed), Extent::Host);
    assert_eq!(seeded(1), seeded(1));
    assert_ne!(seeded(1), seeded(2));
    let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    let from_bytes = || steps(&mut FromBytes::new(&bytes), Extent::Host);
    assert_eq!(from_bytes(), from_bytes());
}

/// The kernel refuses shorter frames, and its clock cannot be set.
#[test]
fn sequences_for_the_kernel_have_neither_short_frames_nor_waits() {
    for seed in 0..50 {
        for step in steps(&mut Seeded::new(seed), Extent::Kernel) {
            match step {
                Step::Frame(arrival) | Step::Flood(arrival, _) => assert!(arrival.bytes.len() >= 14),
                Step::Wait(jiffies) => panic!("{jiffies} jiffies pass"),
                Step::Server(..) => {}
            }
        }
    }
}

#[test]
fn most_frames_are_valid_and_some_are_not() {
    let frames = (0..50).flat_map(|seed| steps(&mut Seeded::new(seed), Extent::Host));
    let frames: Vec<_> = frames
        .filter_map(|step| if let Step::Frame(arrival) = step { Some(arrival) } else { None })
        .collect();
    let sound = frames.iter().filter(|arrival| is_sound(&arrival.bytes)).count();
    assert!((frames.len() / 2..frames.len() * 9 / 10).contains(&sound), "{sound} of {}", frames.len());
}

#[test]
fn changed_checksum_is_not_sound() {
    let frames = (0..50).flat_map(|seed| steps(&mut Seeded::new(seed), Extent::Host));
    let mut changed = 0;
    for step in frames {
        let Step::Frame(arrival) = step else { continue };
        // TCP over IPv4 without tags and options, and no fragment.
        let bytes = &arrival.bytes;
        if !is_sound(bytes)
            || bytes[12..15] != [8, 0, 0x45]
            || bytes[23] != 6
            || bytes[20] & 0x3f != 0
            || bytes[21] != 0
        {
            continue;
        }
        for at in [16, 24, 26, 40, 50] {
            let mut bytes = arrival.bytes.clone();
            bytes[at + 1] ^= 1;
            assert!(!is_sound(&bytes), "byte {} of {:02x?}", at + 1, arrival.bytes);
        }
        changed += 1;
    }
    assert!(changed > 10, "{changed} frames");
}

/// The receiver of an ICMP error finds its connection by the embedded packet.
#[test]
fn changed_checksum_of_an_embedded_header_is_not_sound() {
    let frames = (0..50).flat_map(|seed| steps(&mut Seeded::new(seed), Extent::Host));
    let mut changed = 0;
    for step in frames {
        let Step::Frame(Arrival { mut bytes, .. }) = step else { continue };
        // "Unreachable" over IPv4 without tags and options, about a packet without options.
        if !is_sound(&bytes)
            || bytes[12..15] != [8, 0, 0x45]
            || (bytes[23], bytes[34]) != (1, 3)
            || u16::from_be_bytes([bytes[16], bytes[17]]) < 48
            || bytes[42] != 0x45
        {
            continue;
        }
        // Both checksums change by as much, so that the sum of the message stays.
        bytes[53] ^= 1;
        let is_less = bytes[53] & 1 == 0;
        let check = u16::from_be_bytes([bytes[36], bytes[37]]);
        let check = if is_less { check.checked_add(1) } else { check.checked_sub(1) };
        let Some(check) = check else { continue };
        bytes[36..38].copy_from_slice(&check.to_be_bytes());
        assert!(!is_sound(&bytes), "{bytes:02x?}");
        changed += 1;
    }
    assert!(changed > 10, "{changed} frames");
}
