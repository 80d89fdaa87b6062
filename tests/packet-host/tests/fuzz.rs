//! A short run of the packet path on the host against the oracle. `cargo xtask fuzz` makes long ones.

use slb_oracle::generator::Extent;
use slb_packet_host::fuzz::{Plan, on_the_host};

#[test]
fn packet_path_does_with_random_sequences_what_the_oracle_says() {
    let plan = Plan { seed: 1, packets: 1_200_000, extent: Extent::Host };
    match on_the_host(plan, 2) {
        Ok(tally) => {
            println!("{tally}");
            assert_eq!(tally.missed(Extent::Host), [""; 0]);
        }
        Err(failures) => panic!("{}", failures[0]),
    }
}
