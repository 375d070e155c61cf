//! Runs a filter on one system call with unknown arguments.
//!
//! Architecture and number are concrete; arguments and instruction pointer are words about which
//! each branch adds a fact. Every path that some call may take is followed to its return. Values
//! that become too complicated are unknown: both branches are taken, nothing is learnt, so that
//! the outcome is never better than the truth.

use super::bpf::{Arithmetic, Compare, Instruction, MEMORY, Operand, Program};
use super::facts::{Facts, Test};
use super::profile::Level;

/// Bits of the system call number below this one may only be compared, not tested.
const COARSE: u32 = 24;

/// A value of the filter's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Constant(u32),
    /// The system call number: constant in this run, but another one in the next.
    Number,
    /// A word of the call's data under a mask.
    Word {
        index: usize,
        mask: u32,
    },
    Unknown,
}

/// Why a filter cannot be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooComplex {
    /// The budget of steps is used up.
    Steps,
    /// It computes with the system call number, so that trying some numbers says nothing about
    /// the others.
    Number,
}

/// One call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) audit: u32,
    pub(crate) number: u32,
    pub(crate) narrow: bool,
}

#[derive(Clone)]
struct State {
    at: usize,
    a: Value,
    x: Value,
    memory: [Value; MEMORY],
    facts: Facts,
}

/// Follows every path and hands its outcome and facts to `visit`, until that says `false`. Takes
/// its steps from `budget`.
pub(crate) fn run(
    program: &Program,
    call: Call,
    budget: &mut u64,
    mut visit: impl FnMut(Level, &Facts) -> bool,
) -> Result<(), TooComplex> {
    let zero = Value::Constant(0);
    let start = State {
        at: 0,
        a: zero,
        x: zero,
        memory: [zero; MEMORY],
        facts: Facts::new(call.narrow),
    };
    let mut open = vec![start];
    while let Some(mut state) = open.pop() {
        loop {
            *budget = budget.checked_sub(1).ok_or(TooComplex::Steps)?;
            match step(program, call, &mut state, &mut open)? {
                Step::Next => {}
                Step::Dead => break,
                Step::Return(level) => {
                    if !visit(level, &state.facts) {
                        return Ok(());
                    }
                    break;
                }
            }
        }
    }
    Ok(())
}

enum Step {
    Next,
    Dead,
    Return(Level),
}

fn step(
    program: &Program,
    call: Call,
    state: &mut State,
    open: &mut Vec<State>,
) -> Result<Step, TooComplex> {
    // Decoding made sure that every path ends with a return.
    let Some(instruction) = program.instructions.get(state.at) else {
        return Ok(Step::Dead);
    };
    state.at += 1;
    match *instruction {
        Instruction::LoadData(offset) => state.a = load(call, offset),
        Instruction::LoadConstant(value) => state.a = Value::Constant(value),
        Instruction::LoadXConstant(value) => state.x = Value::Constant(value),
        Instruction::LoadMemory(index) => state.a = cell(state, index),
        Instruction::LoadXMemory(index) => state.x = cell(state, index),
        Instruction::Store(index) => store(state, index, state.a),
        Instruction::StoreX(index) => store(state, index, state.x),
        Instruction::AccumulatorToX => state.x = state.a,
        Instruction::XToAccumulator => state.a = state.x,
        Instruction::Jump(target) => state.at = target,
        Instruction::Arithmetic(operation, operand) => {
            match compute(operation, state.a, resolve(state, operand))? {
                Some(value) => state.a = value,
                None => return Ok(Step::Return(Level::Denied)),
            }
        }
        Instruction::Branch {
            compare,
            operand,
            yes,
            no,
        } => {
            let right = resolve(state, operand);
            return branch(call, state, open, (compare, right), (yes, no));
        }
        Instruction::ReturnConstant(value) => return Ok(Step::Return(level(value))),
        Instruction::ReturnAccumulator => {
            return Ok(Step::Return(match state.a {
                Value::Constant(value) => level(value),
                _ => Level::Allowed,
            }));
        }
    }
    Ok(Step::Next)
}

fn load(call: Call, offset: u32) -> Value {
    match offset {
        0 => Value::Number,
        4 => Value::Constant(call.audit),
        _ => usize::try_from(offset / 4).map_or(Value::Unknown, |index| Value::Word {
            index,
            mask: u32::MAX,
        }),
    }
}

fn cell(state: &State, index: usize) -> Value {
    state.memory.get(index).copied().unwrap_or(Value::Unknown)
}

fn store(state: &mut State, index: usize, value: Value) {
    if let Some(cell) = state.memory.get_mut(index) {
        *cell = value;
    }
}

fn resolve(state: &State, operand: Operand) -> Value {
    match operand {
        Operand::Constant(value) => Value::Constant(value),
        Operand::X => state.x,
    }
}

/// The new accumulator; `None` when the program ends here.
fn compute(operation: Arithmetic, left: Value, right: Value) -> Result<Option<Value>, TooComplex> {
    Ok(match (operation, left, right) {
        (_, Value::Number, _) | (_, _, Value::Number) => return Err(TooComplex::Number),
        (_, Value::Constant(left), Value::Constant(right)) => {
            operation.apply(left, right).map(Value::Constant)
        }
        (Arithmetic::And, Value::Word { index, mask }, Value::Constant(value))
        | (Arithmetic::And, Value::Constant(value), Value::Word { index, mask }) => {
            Some(Value::Word {
                index,
                mask: mask & value,
            })
        }
        _ => Some(Value::Unknown),
    })
}

fn branch(
    call: Call,
    state: &mut State,
    open: &mut Vec<State>,
    (compare, right): (Compare, Value),
    (yes, no): (usize, usize),
) -> Result<Step, TooComplex> {
    match (state.a, right) {
        (Value::Constant(left), Value::Constant(right)) => {
            state.at = if holds(compare, left, right) { yes } else { no };
        }
        (Value::Number, Value::Constant(right)) => {
            if compare == Compare::AnyBit && !is_coarse(right) {
                return Err(TooComplex::Number);
            }
            state.at = if holds(compare, call.number, right) {
                yes
            } else {
                no
            };
        }
        (Value::Number, _) | (_, Value::Number) => return Err(TooComplex::Number),
        (Value::Word { index, mask }, Value::Constant(right)) => {
            let (if_yes, if_no) = tests(compare, right);
            let mut other = state.clone();
            if let Some(test) = if_no
                && other.facts.assume(index, mask, test)
            {
                other.at = no;
                open.push(other);
            }
            match if_yes {
                Some(test) if state.facts.assume(index, mask, test) => state.at = yes,
                _ => return Ok(Step::Dead),
            }
        }
        _ => {
            let mut other = state.clone();
            other.at = no;
            open.push(other);
            state.at = yes;
        }
    }
    Ok(Step::Next)
}

/// Whether testing bits of a number tells only few ranges of numbers apart.
pub(crate) fn is_coarse(bits: u32) -> bool {
    bits.trailing_zeros() >= COARSE
}

fn holds(compare: Compare, left: u32, right: u32) -> bool {
    match compare {
        Compare::Equal => left == right,
        Compare::Greater => left > right,
        Compare::AtLeast => left >= right,
        Compare::AnyBit => left & right != 0,
    }
}

/// What holds on the two sides of a comparison; `None` where a side cannot be taken.
fn tests(compare: Compare, right: u32) -> (Option<Test>, Option<Test>) {
    match compare {
        Compare::Equal => (Some(Test::Equal(right)), Some(Test::NotEqual(right))),
        Compare::AtLeast => (Some(Test::AtLeast(right)), Some(Test::Less(right))),
        Compare::Greater => match right.checked_add(1) {
            Some(next) => (Some(Test::AtLeast(next)), Some(Test::Less(next))),
            None => (None, Some(Test::AtLeast(0))),
        },
        Compare::AnyBit => (Some(Test::AnyBit(right)), Some(Test::NoBit(right))),
    }
}

/// The outcome of a return value (`SECCOMP_RET_*`); unknown actions kill.
fn level(value: u32) -> Level {
    match value & 0xffff_0000 {
        0x7fff_0000 => Level::Allowed,
        0x7ffc_0000 => Level::Logged,
        0x7ff0_0000 | 0x7fc0_0000 => Level::Delegated,
        _ => Level::Denied,
    }
}
