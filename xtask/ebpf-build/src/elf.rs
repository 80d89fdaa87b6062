//! Reads BPF objects, to refuse broken ones and to describe good ones.
//!
//! A bpf-linker with another LLVM than the compiler's can lose BTF silently, so every object is checked.

use std::collections::BTreeMap;

use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, Relocation, RelocationTarget, SectionKind, SymbolKind,
};

use crate::stack::CallGraph;

/// Bytes of one BPF instruction.
const INSTRUCTION: usize = 8;

/// A checked object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Size of the file in bytes.
    pub size: usize,
    /// Programs and BPF subprograms.
    pub functions: Vec<Function>,
    /// Names of the maps, sorted.
    pub maps: Vec<String>,
    /// Licence that it declares to the kernel.
    pub license: String,
}

/// A function in an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Name.
    pub name: String,
    /// Section: `xdp`, `classifier`, `raw_tp/...`, `sockops` or `cgroup/...` for a program, `.text` for a subprogram.
    pub section: String,
    /// Number of instructions; one that takes two slots counts twice, as in the kernel.
    pub instructions: usize,
    /// Stack depth in bytes, as addressed through the frame pointer: 0 to 512.
    pub stack: u32,
    /// Stack of the deepest chain of calls that begins here, in bytes; each frame is rounded up as the verifier does.
    pub deepest_chain: u32,
}

impl Object {
    /// Reads an object and checks that it contains a program, a licence and BTF.
    ///
    /// # Errors
    /// One of them is missing; the error names it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file = object::File::parse(bytes).map_err(|e| format!("not an object file: {e}"))?;
        if file.architecture() != object::Architecture::Bpf {
            return Err(format!("made for {:?}, not for BPF", file.architecture()));
        }
        let license = section(&file, "license")?;
        let license = String::from_utf8_lossy(license).trim_end_matches('\0').to_owned();
        if section(&file, ".BTF")?.is_empty() {
            return Err("section .BTF is empty".to_owned());
        }
        let mut found = Self { size: bytes.len(), functions: Vec::new(), maps: Vec::new(), license };
        for symbol in file.symbols() {
            let Some(section) = symbol.section_index().and_then(|index| file.section_by_index(index).ok())
            else {
                continue;
            };
            let (Ok(name), Ok(section_name)) = (symbol.name(), section.name()) else { continue };
            if matches!(section_name, "maps" | ".maps") && symbol.is_global() {
                found.maps.push(name.to_owned());
            } else if section.kind() == SectionKind::Text && symbol.kind() == SymbolKind::Text {
                let code =
                    section.data_range(symbol.address(), symbol.size()).ok().flatten().unwrap_or_default();
                found.functions.push(Function {
                    name: name.to_owned(),
                    section: section_name.to_owned(),
                    instructions: code.len() / INSTRUCTION,
                    stack: stack_depth(code),
                    deepest_chain: 0,
                });
            }
        }
        found.maps.sort_unstable();
        let graph = call_graph(&file, &found.functions)?;
        for function in &mut found.functions {
            function.deepest_chain = graph.deepest_chain(&function.name);
        }
        if !found.functions.iter().any(Function::is_program) {
            return Err("no program in it".to_owned());
        }
        Ok(found)
    }
}

impl Function {
    /// Whether it is a program, and not a subprogram.
    #[must_use]
    pub fn is_program(&self) -> bool {
        let kind = self.section.split(['/', '.']).next();
        self.instructions > 0
            && matches!(kind, Some("xdp" | "classifier" | "raw_tp" | "raw_tracepoint" | "sockops" | "cgroup"))
    }
}

fn section<'data>(file: &object::File<'data>, name: &str) -> Result<&'data [u8], String> {
    let section = file.section_by_name(name).ok_or_else(|| format!("no section {name}"))?;
    section.data().map_err(|e| format!("section {name}: {e}"))
}

/// Which functions call which: a relocation of each call names the callee.
///
/// # Errors
/// A call without such a relocation.
fn call_graph(file: &object::File<'_>, functions: &[Function]) -> Result<CallGraph, String> {
    let frames = functions.iter().map(|function| (function.name.clone(), function.stack)).collect();
    let mut graph = CallGraph { frames, ..CallGraph::default() };
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let targets: BTreeMap<u64, Relocation> = section.relocations().collect();
        let is_here = |symbol: &object::Symbol<'_, '_>| {
            symbol.kind() == SymbolKind::Text && symbol.section_index() == Some(section.index())
        };
        for caller in file.symbols().filter(is_here) {
            let Ok(name) = caller.name() else { continue };
            let code = section.data_range(caller.address(), caller.size()).ok().flatten().unwrap_or_default();
            for Call { offset, constant } in calls(code) {
                let at = caller.address() + offset;
                let callee = targets.get(&at).and_then(|to| callee(file, to, constant));
                let callee = callee.ok_or_else(|| format!("{name} calls an unknown function at {at:#x}"))?;
                graph.calls.entry(name.to_owned()).or_default().insert(callee.to_owned());
            }
        }
    }
    Ok(graph)
}

/// Name of the function that a call's relocation leads to. Functions that are not exported are named by their section
/// and the call's constant, the distance in instructions less one.
fn callee<'file>(
    file: &'file object::File<'_>,
    relocation: &Relocation,
    constant: i32,
) -> Option<&'file str> {
    let RelocationTarget::Symbol(symbol) = relocation.target() else { return None };
    let symbol = file.symbol_by_index(symbol).ok()?;
    if symbol.kind() != SymbolKind::Section {
        return symbol.name().ok();
    }
    let address = u64::try_from(i64::from(constant) + 1).ok()? * INSTRUCTION as u64;
    let is_there = |candidate: &object::Symbol<'_, '_>| {
        candidate.kind() == SymbolKind::Text
            && candidate.section_index() == symbol.section_index()
            && candidate.address() == address
    };
    file.symbols().find(is_there)?.name().ok()
}

/// A call of a subprogram: its offset in bytes, and its constant.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    offset: u64,
    constant: i32,
}

/// The calls of subprograms in `code`.
fn calls(code: &[u8]) -> impl Iterator<Item = Call> {
    const CALL: u8 = 0x85;
    /// `BPF_PSEUDO_CALL`, in the source register: no helper is called.
    const SUBPROGRAM: u8 = 1;
    let instructions = code.as_chunks::<INSTRUCTION>().0.iter().zip(0_u64..);
    instructions.filter(|(code, _)| code[0] == CALL && code[1] >> 4 == SUBPROGRAM).map(|(code, number)| {
        Call {
            offset: number * INSTRUCTION as u64,
            constant: i32::from_le_bytes([code[4], code[5], code[6], code[7]]),
        }
    })
}

/// Deepest offset below the frame pointer (r10) in `code`: in loads and stores, and in pointers made by `r = r10; r +=
/// -N`.
fn stack_depth(code: &[u8]) -> u32 {
    const FRAME: u8 = 10;
    const LD_IMM64: u8 = 0x18;
    const MOV64_REGISTER: u8 = 0xbf;
    const ADD64_CONSTANT: u8 = 0x07;
    let mut deepest = 0;
    let mut is_frame = [false; 16];
    is_frame[usize::from(FRAME)] = true;
    let mut instructions = code.as_chunks::<INSTRUCTION>().0.iter();
    while let Some(&[operation, registers, low, high, constant @ ..]) = instructions.next() {
        let (destination, source) = (usize::from(registers & 0xf), usize::from(registers >> 4));
        let offset = i32::from(i16::from_le_bytes([low, high]));
        let mut reaches = |below: i32| deepest = deepest.max(below.min(0).unsigned_abs());
        match operation & 7 {
            // LDX addresses memory by the source register, ST and STX by the destination register.
            1 if is_frame[source] => reaches(offset),
            2 | 3 if is_frame[destination] => reaches(offset),
            7 if operation == ADD64_CONSTANT && is_frame[destination] => {
                reaches(i32::from_le_bytes(constant));
            }
            _ => {}
        }
        // LD, LDX, ALU and ALU64 write the destination register; jumps and stores do not.
        if matches!(operation & 7, 0 | 1 | 4 | 7) && destination != usize::from(FRAME) {
            is_frame[destination] = operation == MOV64_REGISTER && source == usize::from(FRAME);
        }
        if operation == LD_IMM64 {
            instructions.next();
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes an instruction in little-endian order.
    fn instruction(operation: u8, destination: u8, source: u8, offset: i16, constant: i32) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[0] = operation;
        bytes[1] = destination | source << 4;
        bytes[2..4].copy_from_slice(&offset.to_le_bytes());
        bytes[4..].copy_from_slice(&constant.to_le_bytes());
        bytes
    }

    #[test]
    fn loads_and_stores_through_the_frame_pointer_count() {
        let load = instruction(0x79, 1, 10, -24, 0);
        let store = instruction(0x7b, 10, 1, -40, 0);
        let elsewhere = instruction(0x79, 2, 1, -100, 0);
        assert_eq!(stack_depth(&[load, store, elsewhere].concat()), 40);
    }

    #[test]
    fn pointers_into_the_frame_count_once_moved_below_it() {
        let copy = instruction(0xbf, 2, 10, 0, 0);
        let overwrite = instruction(0xbf, 2, 3, 0, 0);
        let lower = instruction(0x07, 2, 0, 0, -64);
        assert_eq!(stack_depth(&[copy, lower].concat()), 64);
        assert_eq!(stack_depth(&[copy, overwrite, lower].concat()), 0);
    }

    #[test]
    fn the_second_half_of_a_wide_constant_is_no_instruction() {
        let wide = instruction(0x18, 1, 0, 0, 0);
        let half = instruction(0x79, 1, 10, -200, 0);
        assert_eq!(stack_depth(&[wide, half].concat()), 0);
    }

    #[test]
    fn calls_of_subprograms_are_found_and_those_of_helpers_are_not() {
        let helper = instruction(0x85, 0, 0, 0, 1);
        let subprogram = |constant| instruction(0x85, 0, 1, 0, constant);
        let code = [helper, subprogram(-1), helper, subprogram(40)].concat();
        let expected = [Call { offset: 8, constant: -1 }, Call { offset: 24, constant: 40 }];
        assert_eq!(calls(&code).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_object_of_the_host_is_refused() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(Object::parse(&own).unwrap_err().contains("not for BPF"));
        assert!(Object::parse(b"text").unwrap_err().contains("not an object file"));
    }
}
