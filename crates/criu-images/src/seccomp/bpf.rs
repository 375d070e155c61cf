//! Classic BPF programs as seccomp takes them (`linux/filter.h`, `kernel/seccomp.c`).

/// `BPF_MAXINSNS`.
pub(crate) const MAX_INSTRUCTIONS: usize = 4096;
/// Bytes of `struct sock_filter`.
const INSTRUCTION_BYTES: usize = 8;
/// Bytes of `struct seccomp_data`.
pub(crate) const DATA_BYTES: u32 = 64;
/// Words of scratch memory.
pub(crate) const MEMORY: usize = 16;

/// The right operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operand {
    Constant(u32),
    X,
}

/// Arithmetic on the accumulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Or,
    And,
    ShiftLeft,
    ShiftRight,
    Xor,
    Negate,
}

/// Comparisons of the accumulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    Greater,
    AtLeast,
    AnyBit,
}

/// One instruction. Jump targets are absolute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instruction {
    LoadData(u32),
    LoadConstant(u32),
    LoadMemory(usize),
    LoadXConstant(u32),
    LoadXMemory(usize),
    Store(usize),
    StoreX(usize),
    Arithmetic(Arithmetic, Operand),
    Jump(usize),
    Branch {
        compare: Compare,
        operand: Operand,
        yes: usize,
        no: usize,
    },
    ReturnConstant(u32),
    ReturnAccumulator,
    AccumulatorToX,
    XToAccumulator,
}

/// A program that the kernel would accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) instructions: Vec<Instruction>,
}

/// Decodes a program and holds it to the kernel's rules: known instructions, jumps forward and
/// within, a return at the end. The error says which instruction is wrong.
pub(crate) fn decode(bytes: &[u8]) -> Result<Program, String> {
    let count = bytes.len() / INSTRUCTION_BYTES;
    if !bytes.len().is_multiple_of(INSTRUCTION_BYTES) || count == 0 || count > MAX_INSTRUCTIONS {
        return Err(format!("{} bytes are no program", bytes.len()));
    }
    let mut instructions = Vec::with_capacity(count);
    for (at, bytes) in bytes.chunks_exact(INSTRUCTION_BYTES).enumerate() {
        let instruction = <[u8; INSTRUCTION_BYTES]>::try_from(bytes)
            .ok()
            .and_then(|bytes| instruction(bytes, at, count))
            .ok_or_else(|| format!("instruction {at} is not valid"))?;
        instructions.push(instruction);
    }
    match instructions.last() {
        Some(Instruction::ReturnConstant(_) | Instruction::ReturnAccumulator) => {
            Ok(Program { instructions })
        }
        _ => Err("program does not end with a return".to_owned()),
    }
}

fn instruction(bytes: [u8; INSTRUCTION_BYTES], at: usize, count: usize) -> Option<Instruction> {
    let [code_low, code_high, yes, no, k0, k1, k2, k3] = bytes;
    let code = u16::from_le_bytes([code_low, code_high]);
    let k = u32::from_le_bytes([k0, k1, k2, k3]);
    let memory = || usize::try_from(k).ok().filter(|index| *index < MEMORY);
    let target = |offset: usize| {
        let target = at.checked_add(1)?.checked_add(offset)?;
        (target < count).then_some(target)
    };
    let branch = |compare, operand| {
        Some(Instruction::Branch {
            compare,
            operand,
            yes: target(yes.into())?,
            no: target(no.into())?,
        })
    };
    let constant = Operand::Constant(k);
    Some(match code {
        0x20 if k.is_multiple_of(4) && k < DATA_BYTES => Instruction::LoadData(k),
        0x80 => Instruction::LoadConstant(DATA_BYTES),
        0x81 => Instruction::LoadXConstant(DATA_BYTES),
        0x00 => Instruction::LoadConstant(k),
        0x01 => Instruction::LoadXConstant(k),
        0x60 => Instruction::LoadMemory(memory()?),
        0x61 => Instruction::LoadXMemory(memory()?),
        0x02 => Instruction::Store(memory()?),
        0x03 => Instruction::StoreX(memory()?),
        0x07 => Instruction::AccumulatorToX,
        0x87 => Instruction::XToAccumulator,
        0x06 => Instruction::ReturnConstant(k),
        0x16 => Instruction::ReturnAccumulator,
        0x05 => Instruction::Jump(target(usize::try_from(k).ok()?)?),
        0x15 => branch(Compare::Equal, constant)?,
        0x1d => branch(Compare::Equal, Operand::X)?,
        0x25 => branch(Compare::Greater, constant)?,
        0x2d => branch(Compare::Greater, Operand::X)?,
        0x35 => branch(Compare::AtLeast, constant)?,
        0x3d => branch(Compare::AtLeast, Operand::X)?,
        0x45 => branch(Compare::AnyBit, constant)?,
        0x4d => branch(Compare::AnyBit, Operand::X)?,
        // Division by a constant zero and shifts beyond the word are refused by the kernel.
        0x34 if k == 0 => return None,
        0x64 | 0x74 if k >= 32 => return None,
        _ => arithmetic(code, constant)?,
    })
}

fn arithmetic(code: u16, constant: Operand) -> Option<Instruction> {
    const ALU: u16 = 0x04;
    const FROM_X: u16 = 0x08;
    if code & 0xff07 != ALU {
        return None;
    }
    let operand = if code & FROM_X == 0 {
        constant
    } else {
        Operand::X
    };
    let operation = match code & 0xf0 {
        0x00 => Arithmetic::Add,
        0x10 => Arithmetic::Subtract,
        0x20 => Arithmetic::Multiply,
        0x30 => Arithmetic::Divide,
        0x40 => Arithmetic::Or,
        0x50 => Arithmetic::And,
        0x60 => Arithmetic::ShiftLeft,
        0x70 => Arithmetic::ShiftRight,
        0x80 if code & FROM_X == 0 => Arithmetic::Negate,
        0xa0 => Arithmetic::Xor,
        _ => return None,
    };
    Some(Instruction::Arithmetic(operation, operand))
}

impl Arithmetic {
    /// The result; `None` for a division by zero, which ends the program with 0.
    pub(crate) fn apply(self, left: u32, right: u32) -> Option<u32> {
        Some(match self {
            Self::Add => left.wrapping_add(right),
            Self::Subtract => left.wrapping_sub(right),
            Self::Multiply => left.wrapping_mul(right),
            Self::Divide => left.checked_div(right)?,
            Self::Or => left | right,
            Self::And => left & right,
            Self::ShiftLeft => left.checked_shl(right).unwrap_or(0),
            Self::ShiftRight => left.checked_shr(right).unwrap_or(0),
            Self::Xor => left ^ right,
            Self::Negate => left.wrapping_neg(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Compare, Instruction, Operand, decode};

    /// A program from (code, jt, jf, k).
    pub(crate) fn assemble(code: &[(u16, u8, u8, u32)]) -> Vec<u8> {
        code.iter()
            .flat_map(|(code, yes, no, k)| {
                let mut bytes = code.to_le_bytes().to_vec();
                bytes.extend([*yes, *no]);
                bytes.extend(k.to_le_bytes());
                bytes
            })
            .collect()
    }

    #[test]
    fn programs_decode() {
        let bytes = assemble(&[(0x20, 0, 0, 4), (0x15, 0, 1, 7), (6, 0, 0, 1), (6, 0, 0, 2)]);
        assert_eq!(
            decode(&bytes).unwrap().instructions,
            [
                Instruction::LoadData(4),
                Instruction::Branch {
                    compare: Compare::Equal,
                    operand: Operand::Constant(7),
                    yes: 2,
                    no: 3
                },
                Instruction::ReturnConstant(1),
                Instruction::ReturnConstant(2),
            ]
        );
    }

    #[test]
    fn what_the_kernel_refuses_is_refused() {
        let refused = |code: &[(u16, u8, u8, u32)]| decode(&assemble(code)).unwrap_err();
        assert_eq!(refused(&[]), "0 bytes are no program");
        assert_eq!(decode(&[0; 9]).unwrap_err(), "9 bytes are no program");
        assert_eq!(
            refused(&[(0x20, 0, 0, 4)]),
            "program does not end with a return"
        );
        let end = (6, 0, 0, 0);
        for bad in [
            (0x20, 0, 0, 2),
            (0x20, 0, 0, 64),
            (0x15, 1, 0, 0),
            (0x05, 0, 0, 1),
            (0x28, 0, 0, 0),
            (0x34, 0, 0, 0),
            (0x60, 0, 0, 16),
            (0x64, 0, 0, 32),
            (0x94, 0, 0, 1),
            (0x8c, 0, 0, 0),
            (0x0104, 0, 0, 0),
        ] {
            assert_eq!(
                refused(&[bad, end]),
                "instruction 0 is not valid",
                "{bad:x?}"
            );
        }
    }
}
