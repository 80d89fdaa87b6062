//! Fragments of questions and answers: mostly in order, with other packets between them.

use super::SequenceDraft;
use crate::{
    choices::Choices,
    generator::{
        Arrival, Extent,
        frame::{Built, Content},
        mutation::mutated,
    },
    world::{FAR, NEAR},
};

/// Identifications: few, so that packets meet.
const IDS: [u32; 3] = [7, 0xabcd, 0x0001_0007];
/// Lengths of payloads in bytes.
const PAYLOADS: [usize; 8] = [12, 40, 40, 100, 100, 600, 1500, 2800];
/// Lengths of fragments in bytes.
const LENGTHS: [usize; 10] = [8, 16, 24, 32, 40, 64, 64, 512, 1400, 1480];

impl SequenceDraft<'_> {
    /// Cuts a packet, whose fragments arrive from now on.
    pub(super) fn fragmented(&mut self, choices: &mut impl Choices) {
        let client = choices.pick(&self.clients);
        let mut draft =
            if choices.below(3) == 0 { self.answer(choices, client) } else { self.question(choices, client) };
        if let Content::Tcp(_, payload) | Content::Udp(_, payload, _) = &mut draft.content {
            payload.resize(choices.pick(&PAYLOADS), 0x62);
        }
        let (whole, interface) = self.framed(choices, draft);
        let mut fragments = cut(choices, &whole);
        match choices.below(16) {
            0 => fragments.reverse(),
            1 => fragments.rotate_left(1),
            2 => drop(fragments.remove(0)),
            3 => fragments.push(fragments[0].clone()),
            _ => {}
        }
        for mut fragment in fragments {
            if choices.rarely(16) {
                let hop_limit = fragment.network + if whole.is_v4() { 8 } else { 7 };
                fragment.bytes[hop_limit] = choices.pick(&[0, 1, 2]);
            }
            let elsewhere = self.extent == Extent::Host && choices.rarely(24);
            let interface = if elsewhere { FAR + NEAR - interface } else { interface };
            let least = if self.extent == Extent::Host { 0 } else { 14 };
            let bytes = if choices.rarely(4) { mutated(choices, fragment, least) } else { fragment.bytes };
            self.pending.push_back(Arrival { bytes, interface });
        }
    }
}

/// Two to five fragments.
fn cut(choices: &mut impl Choices, whole: &Built) -> Vec<Built> {
    let id = choices.pick(&IDS);
    let (mut at, mut fragments) = (0, Vec::new());
    while fragments.len() < 4 {
        let len = choices.pick(&LENGTHS);
        if at + len >= whole.content() {
            break;
        }
        fragments.push(whole.fragment(id, at, len, true));
        at += len;
    }
    fragments.push(whole.fragment(id, at, whole.content() - at, false));
    fragments
}
