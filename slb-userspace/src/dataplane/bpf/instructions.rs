//! BPF instructions (RFC 9669) of programs that are made at run time.

/// A register.
#[derive(Debug, Clone, Copy)]
pub(super) enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    /// The frame pointer.
    R10 = 10,
}

/// An instruction of 64 bits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Instruction {
    opcode: u8,
    destination: u8,
    source: u8,
    offset: i16,
    number: i32,
}

/// BPF_PSEUDO_MAP_FD: the number of a wide load is the descriptor of a map.
const MAP_DESCRIPTOR: u8 = 1;

impl Instruction {
    const fn new(opcode: u8, destination: Register, source: u8, offset: i16, number: i32) -> Self {
        Self { opcode, destination: destination as u8, source, offset, number }
    }

    /// `to = *(u32 *)(from + offset)`.
    pub(super) const fn load_word(to: Register, from: Register, offset: i16) -> Self {
        Self::new(0x61, to, from as u8, offset, 0)
    }

    /// `*(u32 *)(to + offset) = from`.
    pub(super) const fn store_register(to: Register, from: Register, offset: i16) -> Self {
        Self::new(0x63, to, from as u8, offset, 0)
    }

    /// `*(u32 *)(to + offset) = number`.
    pub(super) const fn store_number(to: Register, number: i32, offset: i16) -> Self {
        Self::new(0x62, to, 0, offset, number)
    }

    /// `to = from`.
    pub(super) const fn move_register(to: Register, from: Register) -> Self {
        Self::new(0xbf, to, from as u8, 0, 0)
    }

    /// `to = number`.
    pub(super) const fn move_number(to: Register, number: i32) -> Self {
        Self::new(0xb7, to, 0, 0, number)
    }

    /// `to += number`.
    pub(super) const fn add(to: Register, number: i32) -> Self {
        Self::new(0x07, to, 0, 0, number)
    }

    /// `to = map`, for a helper function. Two instructions.
    pub(super) const fn load_map(to: Register, descriptor: i32) -> [Self; 2] {
        [Self::new(0x18, to, MAP_DESCRIPTOR, 0, descriptor), Self::new(0, Register::R0, 0, 0, 0)]
    }

    /// Calls a helper function of the kernel.
    pub(super) const fn call(helper: i32) -> Self {
        Self::new(0x85, Register::R0, 0, 0, helper)
    }

    /// Skips `instructions` if `left <= right`.
    pub(super) const fn jump_unless_above(left: Register, right: Register, instructions: usize) -> Self {
        Self::new(0xbd, left, right as u8, instructions as i16, 0)
    }

    /// Skips `instructions` if the register is not zero.
    pub(super) const fn jump_unless_zero(register: Register, instructions: usize) -> Self {
        Self::new(0x55, register, 0, instructions as i16, 0)
    }

    /// Ends the program.
    pub(super) const fn exit() -> Self {
        Self::new(0x95, Register::R0, 0, 0, 0)
    }

    /// `struct bpf_insn`, on a little-endian machine.
    pub(super) const fn bytes(self) -> [u8; 8] {
        let (offset, word) = (self.offset.to_le_bytes(), self.number.to_le_bytes());
        [
            self.opcode,
            self.source << 4 | self.destination,
            offset[0],
            offset[1],
            word[0],
            word[1],
            word[2],
            word[3],
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::{Instruction as I, Register as R};

    #[test]
    fn instructions_have_the_encoding_of_rfc_9669() {
        assert_eq!(I::load_word(R::R2, R::R1, 4).bytes(), [0x61, 0x12, 4, 0, 0, 0, 0, 0]);
        assert_eq!(I::store_number(R::R10, 1, -8).bytes(), [0x62, 0x0a, 0xf8, 0xff, 1, 0, 0, 0]);
        assert_eq!(I::add(R::R4, -1).bytes(), [0x07, 4, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(I::load_map(R::R1, 3)[0].bytes(), [0x18, 0x11, 0, 0, 3, 0, 0, 0]);
        assert_eq!(I::jump_unless_above(R::R4, R::R3, 2).bytes(), [0xbd, 0x34, 2, 0, 0, 0, 0, 0]);
    }
}
