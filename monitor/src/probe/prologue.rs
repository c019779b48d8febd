//! Where in a function the probe stands: at its entry behind the check of the stack, and at its returns.
//!
//! Go's functions begin with a comparison of the stack pointer with the goroutine's limit, and a jump to where the
//! stack grows; from there they begin again. At the first instruction behind that jump a call is seen once, and the
//! arguments are still in their registers. Mostly it is a `push`, which the kernel carries out itself without a second
//! trap (arch/x86/kernel/uprobes.c, push_setup_xol_ops).

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, Register};

use super::elf::Machine;

/// Instructions of a check: three where the frame is small, six where it is huge.
const CHECK: usize = 8;

/// Returns of a function: the authenticator has two.
const RETURNS: usize = 64;

/// Bytes from the beginning of a function's code to where its entry is probed. 0 where it checks no stack.
pub fn entry(machine: Machine, code: &[u8]) -> u64 {
    match machine {
        Machine::X86_64 => entry_x86_64(code),
        Machine::Arm64 => entry_arm64(code),
    }
}

/// Bytes from the beginning of a function's code to each of its returns; `None` where the code is not understood.
pub fn returns(machine: Machine, code: &[u8]) -> Option<Vec<u64>> {
    let returns = match machine {
        Machine::X86_64 => returns_x86_64(code)?,
        Machine::Arm64 => returns_arm64(code),
    };
    (!returns.is_empty() && returns.len() <= RETURNS).then_some(returns)
}

/// `cmp rsp, [r14+0x10]` and `jbe`; before it, where the frame is large, `lea r12, [rsp-size]`, or `mov r12, rsp`,
/// `sub r12, size`, `jb`, and the comparison is of r12 (src/cmd/internal/obj/x86/obj6.go, stacksplit).
fn entry_x86_64(code: &[u8]) -> u64 {
    let mut compared = false;
    for instruction in Decoder::new(64, code, DecoderOptions::NONE).iter().take(CHECK) {
        let scratch = instruction.op0_register() == Register::R12;
        match instruction.mnemonic() {
            Mnemonic::Cmp if compares_limit(&instruction) => compared = true,
            Mnemonic::Lea | Mnemonic::Mov | Mnemonic::Sub if scratch && !compared => {}
            Mnemonic::Jb if !compared => {}
            Mnemonic::Jbe if compared => return instruction.next_ip(),
            _ => break,
        }
    }
    0
}

/// A comparison with the first word but one of the goroutine's descriptor, stackguard0.
fn compares_limit(instruction: &Instruction) -> bool {
    instruction.code() == Code::Cmp_r64_rm64
        && matches!(instruction.op0_register(), Register::RSP | Register::R12)
        && instruction.memory_base() == Register::R14
        && instruction.memory_displacement64() == 0x10
}

fn returns_x86_64(code: &[u8]) -> Option<Vec<u64>> {
    let mut returns = Vec::new();
    for instruction in &mut Decoder::new(64, code, DecoderOptions::NONE) {
        if instruction.is_invalid() {
            return None;
        }
        if instruction.mnemonic() == Mnemonic::Ret {
            returns.push(instruction.ip());
        }
    }
    Some(returns)
}

/// `ldr x16, [x28, #16]`, then (behind what makes a large frame's end) `cmp` and `b.ls`
/// (src/cmd/internal/obj/arm64/obj7.go, stacksplit).
fn entry_arm64(code: &[u8]) -> u64 {
    /// ldr x16, [x28, #16]
    const LIMIT: u32 = 0xf940_0b90;
    let mut loaded = false;
    for (index, word) in words(code).enumerate().take(CHECK) {
        let conditional = word & 0xff00_0010 == 0x5400_0000;
        let condition = word & 0xf;
        // cmp and sub, of x16, x17 and sp: what takes part in a check.
        let arithmetic = word & 0x1f00_0000 == 0x0b00_0000 || word & 0x1f00_0000 == 0x1100_0000;
        let wide_move = word & 0x1f80_0000 == 0x1280_0000;
        match word {
            LIMIT => loaded = true,
            // b.ls
            _ if conditional && condition == 9 && loaded => return (index as u64 + 1) * 4,
            // b.lo: a huge frame that would wrap around.
            _ if conditional && condition == 3 => {}
            _ if arithmetic || wide_move => {}
            _ => break,
        }
    }
    0
}

fn returns_arm64(code: &[u8]) -> Vec<u64> {
    /// ret
    const RETURN: u32 = 0xd65f_03c0;
    words(code).enumerate().filter(|(_, word)| *word == RETURN).map(|(index, _)| index as u64 * 4).collect()
}

fn words(code: &[u8]) -> impl Iterator<Item = u32> {
    code.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex"))
            .collect()
    }

    /// The same in the order in which arm64's instructions are written down.
    fn arm(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn x86_64_entries_lie_behind_the_check() {
        let table = [
            ("small frame, near jump", "49 3b 66 10  76 2d  55  48 89 e5", 6),
            ("small frame, far jump", "49 3b 66 10  0f 86 9c 01 00 00  55  48 89 e5", 10),
            ("large frame", "4c 8d 64 24 c8  4d 3b 66 10  0f 86 9c 01 00 00  55", 15),
            ("larger frame", "4c 8d a4 24 08 ff ff ff  4d 3b 66 10  76 2d  55", 14),
            ("huge frame", "49 89 e4  49 81 ec 00 20 00 00  72 10  4d 3b 66 10  76 2d  55", 18),
            ("no check", "55  48 89 e5  48 83 ec 10", 0),
            ("no frame", "31 c0  c3", 0),
            ("a comparison of something else", "49 3b 46 10  76 2d  55", 0),
            ("a check without its jump", "49 3b 66 10  55", 0),
            ("nothing", "", 0),
        ];
        for (what, code, expected) in table {
            assert_eq!(entry(Machine::X86_64, &bytes(code)), expected, "{what}");
        }
        let whole = bytes("4c 8d 64 24 c8  4d 3b 66 10  0f 86 9c 01 00 00  55");
        for length in 0..15 {
            assert_eq!(entry(Machine::X86_64, &whole[..length]), 0, "{length}");
        }
    }

    #[test]
    fn x86_64_returns_are_instructions_and_not_bytes() {
        // mov eax, 0xc3; ret; int3; mov ebx, 1; ret
        assert_eq!(returns(Machine::X86_64, &bytes("b8 c3 00 00 00  c3  cc  bb 01 00 00 00  c3")), Some(vec![5, 12]));
        assert_eq!(returns(Machine::X86_64, &bytes("06 c3")), None, "not an instruction");
        assert_eq!(returns(Machine::X86_64, &bytes("eb fe")), None, "never returns");
    }

    #[test]
    fn arm64_entries_lie_behind_the_check() {
        // ldr x16,[x28,#16]; cmp sp,x16; b.ls; str x30,[sp,#-80]!
        let small = [0xf940_0b90, 0xeb30_63ff, 0x5400_0569, 0xf81b_0ffe];
        assert_eq!(entry(Machine::Arm64, &arm(&small)), 12);
        // ldr x16,[x28,#16]; sub x17,sp,#0x50; cmp x17,x16; b.ls
        let large = [0xf940_0b90, 0xd101_43f1, 0xeb10_023f, 0x5400_0b69, 0xd503_201f];
        assert_eq!(entry(Machine::Arm64, &arm(&large)), 16);
        // str x30,[sp,#-32]!
        assert_eq!(entry(Machine::Arm64, &arm(&[0xf81e_0ffe, 0xf900_07e0, 0xf940_0b90])), 0);
        assert_eq!(entry(Machine::Arm64, &arm(&small)[..11]), 0);
        assert_eq!(returns(Machine::Arm64, &arm(&[0xd503_201f, 0xd65f_03c0, 0xd65f_03c0])), Some(vec![4, 8]));
    }
}
