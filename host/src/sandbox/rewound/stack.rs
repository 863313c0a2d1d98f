//! Whether a function returns with the stack pointer that it was called with.
//!
//! The stack pointer is a global, which a host cannot read or set. But what LLVM makes of a function can be followed: it
//! takes a constant from the pointer at the beginning and adds it again before the end, or keeps the first value in a local.
//! So its code is gone through once, with what is known of locals and operands: a constant, or how far from the
//! first stack pointer. Where ways meet, what they do not agree on is not known. Each way to return must have the first
//! value, and each way back to the begin of a loop the value that the loop began with. A function that calls others
//! relies on the same of them, all of which are gone through; one that traps instead does not return at all.
//! Whatever is not understood is not restored.

use std::collections::BTreeSet;

use wasmparser::{
    BlockType, ContType, FrameKind, FuncType, FunctionBody, ModuleArity, Operator, RefType, Result, SubType,
};

/// The types of a module, and which each function has.
#[derive(Default)]
pub(super) struct Signatures {
    pub(super) types: Vec<SubType>,
    pub(super) functions: Vec<u32>,
}

impl ModuleArity for Signatures {
    fn sub_type_at(&self, index: u32) -> Option<&SubType> {
        self.types.get(usize::try_from(index).ok()?)
    }

    fn type_index_of_function(&self, index: u32) -> Option<u32> {
        self.functions.get(usize::try_from(index).ok()?).copied()
    }

    fn tag_type_arity(&self, _: u32) -> Option<(u32, u32)> {
        None
    }

    fn func_type_of_cont_type(&self, _: &ContType) -> Option<&FuncType> {
        None
    }

    fn sub_type_of_ref_type(&self, _: &RefType) -> Option<&SubType> {
        None
    }

    fn control_stack_height(&self) -> u32 {
        0
    }

    fn label_block(&self, _: u32) -> Option<(BlockType, FrameKind)> {
        None
    }
}

/// What is known of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Unknown,
    Constant(i32),
    /// So much more than the stack pointer that the function was called with.
    Stack(i32),
}

/// Between two operators.
#[derive(Clone)]
struct Point {
    pointer: Value,
    locals: Vec<Value>,
}

impl Point {
    /// What is known here and there.
    fn meet(&mut self, other: &Self) {
        let agreed = |a: Value, b: Value| if a == b { a } else { Value::Unknown };
        self.pointer = agreed(self.pointer, other.pointer);
        for (own, other) in self.locals.iter_mut().zip(&other.locals) {
            *own = agreed(*own, *other);
        }
    }
}

enum Kind {
    Function,
    Block,
    /// With the stack pointer that it began with.
    Loop(Value),
    /// With what the other way begins with.
    If(Point),
}

struct Frame {
    kind: Kind,
    /// Operands below it.
    height: usize,
    params: usize,
    results: usize,
    /// Where the ways out of it meet, as far as they are known.
    end: Option<Point>,
}

/// Whether `function` returns with the value of the global `pointer` that it was called with, if those do that it calls.
pub(super) fn is_restored(
    signatures: &Signatures,
    function: u32,
    body: &FunctionBody<'_>,
    pointer: Option<u32>,
) -> Result<bool> {
    Ok(Walk::new(signatures, function, body, pointer)?.is_some_and(|walk| walk.run(body).unwrap_or(false)))
}

struct Walk<'a> {
    signatures: &'a Signatures,
    pointer: Option<u32>,
    /// Locals that each loop sets, in the order in which loops begin.
    set_in_loops: Vec<BTreeSet<u32>>,
    loops: usize,
    here: Point,
    operands: Vec<Value>,
    frames: Vec<Frame>,
    /// Blocks that have begun since no operator can be reached any more.
    dead: Option<usize>,
}

impl<'a> Walk<'a> {
    fn new(
        signatures: &'a Signatures,
        function: u32,
        body: &FunctionBody<'_>,
        pointer: Option<u32>,
    ) -> Result<Option<Self>> {
        let ty = signatures.type_index_of_function(function).and_then(|ty| signatures.sub_type_at(ty));
        let Some((params, results)) = ty.and_then(|ty| signatures.sub_type_arity(ty)) else { return Ok(None) };
        let mut locals = u64::from(params);
        for declared in body.get_locals_reader()? {
            locals += u64::from(declared?.0);
        }
        // wasmparser lets a function have no more.
        let locals = vec![Value::Unknown; usize::try_from(locals).unwrap_or_default().min(50_000)];
        let frame = Frame { kind: Kind::Function, height: 0, params: 0, results: wide(results), end: None };
        Ok(Some(Self {
            signatures,
            pointer,
            set_in_loops: set_in_loops(body)?,
            loops: 0,
            here: Point { pointer: Value::Stack(0), locals },
            operands: Vec::new(),
            frames: vec![frame],
            dead: None,
        }))
    }

    /// `None` is what is not understood.
    fn run(mut self, body: &FunctionBody<'_>) -> Option<bool> {
        let mut operators = body.get_operators_reader().ok()?;
        while !self.frames.is_empty() {
            let operator = operators.read().ok()?;
            let goes_on = match self.dead {
                Some(depth) => self.skip(&operator, depth)?,
                None => self.step(&operator)?,
            };
            if !goes_on {
                return Some(false);
            }
        }
        Some(true)
    }

    /// An operator that cannot be reached.
    fn skip(&mut self, operator: &Operator<'_>, depth: usize) -> Option<bool> {
        match operator {
            Operator::Loop { .. } => {
                self.loops += 1;
                self.dead = Some(depth + 1);
            }
            Operator::Block { .. } | Operator::If { .. } => self.dead = Some(depth + 1),
            Operator::End if depth > 0 => self.dead = Some(depth - 1),
            Operator::End => return self.end(),
            Operator::Else if depth == 0 => self.otherwise()?,
            _ => {}
        }
        Some(true)
    }

    /// An operator that can. Whether the stack pointer may still be restored.
    fn step(&mut self, operator: &Operator<'_>) -> Option<bool> {
        match operator {
            Operator::Block { blockty } => self.begin(Kind::Block, *blockty)?,
            Operator::Loop { blockty } => {
                // What a turn sets, the next one begins with.
                let set = self.set_in_loops.get(self.loops)?;
                for local in set {
                    *self.here.locals.get_mut(wide(*local))? = Value::Unknown;
                }
                self.loops += 1;
                self.begin(Kind::Loop(self.here.pointer), *blockty)?;
            }
            Operator::If { blockty } => {
                self.operands.pop()?;
                self.begin(Kind::If(self.here.clone()), *blockty)?;
            }
            Operator::Else => {
                self.leave(0)?;
                self.otherwise()?;
            }
            Operator::End => {
                if !self.leave(0)? {
                    return Some(false);
                }
                return self.end();
            }
            Operator::Br { relative_depth } => {
                let holds = self.branch(*relative_depth)?;
                self.dead = Some(0);
                return Some(holds);
            }
            Operator::BrIf { relative_depth } => {
                self.operands.pop()?;
                return self.branch(*relative_depth);
            }
            Operator::BrTable { targets } => {
                self.operands.pop()?;
                let mut holds = self.branch(targets.default())?;
                for target in targets.targets() {
                    holds &= self.branch(target.ok()?)?;
                }
                self.dead = Some(0);
                return Some(holds);
            }
            Operator::Return | Operator::ReturnCall { .. } | Operator::ReturnCallIndirect { .. } => {
                self.dead = Some(0);
                return Some(self.here.pointer == Value::Stack(0));
            }
            Operator::Unreachable => self.dead = Some(0),
            Operator::GlobalGet { global_index } if Some(*global_index) == self.pointer => {
                self.operands.push(self.here.pointer);
            }
            Operator::GlobalSet { global_index } if Some(*global_index) == self.pointer => {
                self.here.pointer = self.operands.pop()?;
            }
            // The only global that can be set.
            Operator::GlobalSet { .. } => return None,
            Operator::LocalGet { local_index } => {
                self.operands.push(*self.here.locals.get(wide(*local_index))?);
            }
            Operator::LocalSet { local_index } => {
                *self.here.locals.get_mut(wide(*local_index))? = self.operands.pop()?;
            }
            Operator::LocalTee { local_index } => {
                *self.here.locals.get_mut(wide(*local_index))? = *self.operands.last()?;
            }
            Operator::I32Const { value } => self.operands.push(Value::Constant(*value)),
            Operator::I32Add => {
                let (b, a) = (self.operands.pop()?, self.operands.pop()?);
                self.operands.push(match (a, b) {
                    (Value::Stack(stack), Value::Constant(by)) | (Value::Constant(by), Value::Stack(stack)) => {
                        Value::Stack(stack.wrapping_add(by))
                    }
                    _ => Value::Unknown,
                });
            }
            Operator::I32Sub => {
                let (b, a) = (self.operands.pop()?, self.operands.pop()?);
                self.operands.push(match (a, b) {
                    (Value::Stack(stack), Value::Constant(by)) => Value::Stack(stack.wrapping_sub(by)),
                    _ => Value::Unknown,
                });
            }
            // Other ways to go elsewhere. The engine has none of them switched on.
            Operator::BrOnNull { .. }
            | Operator::BrOnNonNull { .. }
            | Operator::BrOnCast { .. }
            | Operator::BrOnCastFail { .. }
            | Operator::ReturnCallRef { .. }
            | Operator::TryTable { .. }
            | Operator::Try { .. }
            | Operator::Catch { .. }
            | Operator::CatchAll
            | Operator::Delegate { .. }
            | Operator::Rethrow { .. }
            | Operator::Throw { .. }
            | Operator::ThrowRef => return None,
            other => {
                let (params, results) = other.operator_arity(self.signatures)?;
                let left = self.operands.len().checked_sub(wide(params))?;
                self.operands.truncate(left);
                self.operands.resize(left + wide(results), Value::Unknown);
            }
        }
        Some(true)
    }

    fn begin(&mut self, kind: Kind, ty: BlockType) -> Option<()> {
        let (params, results) = self.signatures.block_type_arity(ty)?;
        let height = self.operands.len().checked_sub(wide(params))?;
        self.frames.push(Frame { kind, height, params: wide(params), results: wide(results), end: None });
        Some(())
    }

    /// Goes to a label. Whether the stack pointer may be what it is here.
    fn branch(&mut self, depth: u32) -> Option<bool> {
        let index = self.frames.len().checked_sub(wide(depth).checked_add(1)?)?;
        match self.frames.get(index)?.kind {
            Kind::Loop(pointer) => Some(pointer == self.here.pointer),
            _ => self.leave(wide(depth)),
        }
    }

    /// Goes behind the end of a block.
    fn leave(&mut self, depth: usize) -> Option<bool> {
        let index = self.frames.len().checked_sub(depth.checked_add(1)?)?;
        let frame = self.frames.get_mut(index)?;
        match &mut frame.end {
            Some(end) => end.meet(&self.here),
            none => *none = Some(self.here.clone()),
        }
        Some(!matches!(frame.kind, Kind::Function) || self.here.pointer == Value::Stack(0))
    }

    /// The other way of an `if`.
    fn otherwise(&mut self) -> Option<()> {
        let frame = self.frames.last_mut()?;
        let Kind::If(otherwise) = std::mem::replace(&mut frame.kind, Kind::Block) else { return None };
        self.here = otherwise;
        self.operands.resize(frame.height, Value::Unknown);
        self.operands.resize(frame.height + frame.params, Value::Unknown);
        self.dead = None;
        Some(())
    }

    /// Behind a block.
    fn end(&mut self) -> Option<bool> {
        let mut frame = self.frames.pop()?;
        if let Kind::If(otherwise) = frame.kind {
            match &mut frame.end {
                Some(end) => end.meet(&otherwise),
                none => *none = Some(otherwise),
            }
        }
        self.dead = match frame.end {
            Some(end) => {
                self.here = end;
                None
            }
            None => Some(0),
        };
        self.operands.resize(frame.height, Value::Unknown);
        self.operands.resize(frame.height + frame.results, Value::Unknown);
        Some(true)
    }
}

/// Which locals each loop sets, those inside of it included.
fn set_in_loops(body: &FunctionBody<'_>) -> Result<Vec<BTreeSet<u32>>> {
    let mut loops: Vec<BTreeSet<u32>> = Vec::new();
    // The loop that each open block is, if it is one.
    let mut open: Vec<Option<usize>> = Vec::new();
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        match operators.read()? {
            Operator::Loop { .. } => {
                open.push(Some(loops.len()));
                loops.push(BTreeSet::new());
            }
            Operator::Block { .. } | Operator::If { .. } => open.push(None),
            Operator::End => {
                open.pop();
            }
            Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => {
                for index in open.iter().flatten() {
                    if let Some(set) = loops.get_mut(*index) {
                        set.insert(local_index);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(loops)
}

fn wide(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
