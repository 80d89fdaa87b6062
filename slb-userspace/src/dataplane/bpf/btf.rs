//! Offsets of members of kernel structures, from the kernel's BTF.

use anyhow::{Context as _, Result, bail, ensure};

const KERNEL: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
/// Bytes of `struct btf_type` and of `struct btf_member`.
const TYPE: usize = 12;
const MEMBER: usize = 12;

/// BTF types of a kernel.
pub(super) struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Btf {
    /// BTF of the running kernel.
    ///
    /// # Errors
    /// The kernel has no BTF (`CONFIG_DEBUG_INFO_BTF`), or it cannot be parsed.
    pub(super) fn of_kernel() -> Result<Self> {
        Self::parse(&std::fs::read(KERNEL).with_context(|| format!("cannot read {KERNEL}"))?)
    }

    fn parse(data: &[u8]) -> Result<Self> {
        let word = |at| word(data, at).context("the types are cut off");
        ensure!(word(0)? as u16 == MAGIC, "these are not BTF types");
        let header = word(4)? as usize;
        let part = |offset: u32, length: u32| {
            let start = header + offset as usize;
            data.get(start..start + length as usize).map(<[u8]>::to_vec).context("the types are cut off")
        };
        Ok(Self { types: part(word(8)?, word(12)?)?, strings: part(word(16)?, word(20)?)? })
    }

    /// Offset in bytes of a member of a structure.
    pub(super) fn offset(&self, structure: &str, member: &str) -> Result<u64> {
        let mut at = 0;
        while let (Some(name), Some(info)) = (word(&self.types, at), word(&self.types, at + 4)) {
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let follows = at + TYPE;
            if kind == STRUCT && self.is(name, structure) {
                // The offset of a bit field has the field's size in its upper bits.
                let is_bit_field = info >> 31 != 0;
                let members = (0..count).map(|index| follows + index * MEMBER);
                for place in members {
                    let (Some(name), Some(bits)) = (word(&self.types, place), word(&self.types, place + 8))
                    else {
                        break;
                    };
                    if self.is(name, member) {
                        let bits = if is_bit_field { bits & 0x00ff_ffff } else { bits };
                        return Ok(u64::from(bits / 8));
                    }
                }
            }
            at = follows + more(kind, count)?;
        }
        bail!("the kernel has no {structure}.{member}")
    }

    fn is(&self, offset: u32, name: &str) -> bool {
        let text = self.strings.get(offset as usize..).unwrap_or_default();
        text.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// BTF_KIND_STRUCT.
const STRUCT: u32 = 4;

/// Bytes that follow a `struct btf_type` of a kind, as in the kernel's `include/uapi/linux/btf.h`.
fn more(kind: u32, count: usize) -> Result<usize> {
    Ok(match kind {
        // INT, VAR, DECL_TAG.
        1 | 14 | 17 => 4,
        // ARRAY.
        3 => 12,
        // STRUCT, UNION, DATASEC, ENUM64.
        4 | 5 | 15 | 19 => count * 12,
        // ENUM, FUNC_PROTO.
        6 | 13 => count * 8,
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG.
        2 | 7..=12 | 16 | 18 => 0,
        _ => bail!("the kernel's types are of an unknown kind {kind}"),
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types of one structure `a { x: 4 bytes at 0; y at 8 }`, after an integer.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0a\0x\0y\0";
        let words: &[u32] = &[
            // INT `int`, and the word that follows it.
            1,
            1 << 24,
            4,
            32,
            // STRUCT `a` of two members.
            5,
            4 << 24 | 2,
            16,
            7,
            1,
            0,
            9,
            1,
            64,
        ];
        let header =
            [0x0001_eb9f, 24, 0, words.len() as u32 * 4, words.len() as u32 * 4, strings.len() as u32];
        let words = header.iter().chain(words).flat_map(|word| word.to_le_bytes());
        words.chain(strings.iter().copied()).collect()
    }

    #[test]
    fn btf_members_are_found_by_name() {
        let btf = Btf::parse(&sample()).unwrap();
        assert_eq!(btf.offset("a", "x").unwrap(), 0);
        assert_eq!(btf.offset("a", "y").unwrap(), 8);
        let error = btf.offset("a", "z").unwrap_err().to_string();
        assert_eq!(error, "the kernel has no a.z");
        assert!(btf.offset("int", "x").is_err());
    }

    #[test]
    fn truncated_btf_is_refused_or_lacks_members() {
        let sample = sample();
        for length in 0..sample.len() {
            let found = Btf::parse(&sample[..length]).and_then(|btf| btf.offset("a", "y"));
            assert!(found.is_err(), "{length}");
        }
    }
}
