//! Counts what a component calls outside itself: functions of the host, and built-in ones of the component model.
//!
//! An import of the component's own module gets a function in front of it that burns a known amount of fuel, far more
//! than a whole call takes. What a call takes then tells how often that import was called.

use std::convert::Infallible;
use std::ops::Range;

use wasm_encoder::reencode::{self, Reencode};
use wasm_encoder::{
    BlockType, CodeSection, Component, ComponentSectionId, Function, FunctionSection, Module, RawSection, ValType,
};
use wasmparser::{CodeSectionReader, FunctionSectionReader, Parser, Payload, TypeRef};

/// How often the loop of a counted import runs; a round takes five instructions.
const ROUNDS: i32 = 10_000_000;

/// What one call of a counted import takes at least, and nearly exactly.
pub const FUEL: u64 = 5 * ROUNDS as u64;

/// What went wrong.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// An import of the component's own module.
#[derive(Debug, Clone)]
pub struct Import {
    /// Whose it is: an interface, or the component model.
    pub module: String,
    /// Which function.
    pub name: String,
    parameters: u32,
    ty: u32,
}

impl Import {
    /// Whether it is the component model's own, and not a function of an interface.
    pub fn is_built_in(&self) -> bool {
        let of_interface = ["[method]", "[static]", "[constructor]", "[async-lower]"];
        self.name.starts_with('[') && !of_interface.iter().any(|kind| self.name.starts_with(kind))
    }
}

/// The functions that the component's own module imports.
pub fn imports(component: &[u8]) -> Result<Vec<Import>> {
    Ok(Functions::of(part(component, module(component)?)?)?.imports)
}

/// `component`, where each call of the import at `counted` takes [`FUEL`] more.
pub fn counting(component: &[u8], counted: usize) -> Result<Vec<u8>> {
    let range = module(component)?;
    let rewritten = rewritten(part(component, range.clone())?, counted)?;
    let mut whole = Component::new();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload?;
        if depth == 0
            && let Some((id, section)) = payload.as_section()
        {
            let is_module = section == range;
            let data = if is_module { &rewritten } else { part(component, section)? };
            let id = if is_module { ComponentSectionId::CoreModule as u8 } else { id };
            whole.section(&RawSection { id, data });
        }
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(whole.finish())
}

fn part(bytes: &[u8], range: Range<u64>) -> Result<&[u8]> {
    let range = usize::try_from(range.start)?..usize::try_from(range.end)?;
    bytes.get(range).ok_or_else(|| "a section ends beyond the component".into())
}

/// Where the component's own module is: the largest; the others are what is put around it.
fn module(component: &[u8]) -> Result<Range<u64>> {
    let mut largest = None;
    for payload in Parser::new(0).parse_all(component) {
        if let Payload::ModuleSection { unchecked_range, .. } = payload? {
            let length = unchecked_range.end.saturating_sub(unchecked_range.start);
            largest = largest.max(Some((length, unchecked_range.start, unchecked_range.end)));
        }
    }
    let (_, start, end) = largest.ok_or("the component has no module")?;
    Ok(start..end)
}

/// A module's functions.
struct Functions {
    imports: Vec<Import>,
    all: u32,
}

impl Functions {
    fn of(module: &[u8]) -> Result<Self> {
        let (mut types, mut imports, mut defined) = (Vec::new(), Vec::new(), 0);
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::TypeSection(section) => {
                    for ty in section.into_iter_err_on_gc_types() {
                        types.push(u32::try_from(ty?.params().len())?);
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        if let TypeRef::Func(ty) = import.ty {
                            let parameters = *types.get(ty as usize).ok_or("an import has no type")?;
                            let (module, name) = (import.module.to_owned(), import.name.to_owned());
                            imports.push(Import { module, name, parameters, ty });
                        }
                    }
                }
                Payload::FunctionSection(section) => defined = section.count(),
                _ => {}
            }
        }
        let all = u32::try_from(imports.len())?.saturating_add(defined);
        Ok(Self { imports, all })
    }
}

fn rewritten(module: &[u8], counted: usize) -> Result<Vec<u8>> {
    let Functions { imports, all } = Functions::of(module)?;
    let import = imports.into_iter().nth(counted).ok_or("there is no such import")?;
    let mut rewrite = Rewrite { import, index: u32::try_from(counted)?, counter: all };
    let mut rewritten = Module::new();
    rewrite.parse_core_module(&mut rewritten, Parser::new(0), module)?;
    Ok(rewritten.finish())
}

/// Puts a function behind all others, and has it called where the import was.
struct Rewrite {
    import: Import,
    index: u32,
    counter: u32,
}

impl Reencode for Rewrite {
    type Error = Infallible;

    fn function_index(&mut self, function: u32) -> std::result::Result<u32, reencode::Error> {
        Ok(if function == self.index { self.counter } else { function })
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: FunctionSectionReader<'_>,
    ) -> std::result::Result<(), reencode::Error> {
        reencode::utils::parse_function_section(self, functions, section)?;
        functions.function(self.import.ty);
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: CodeSectionReader<'_>,
    ) -> std::result::Result<(), reencode::Error> {
        reencode::utils::parse_code_section(self, code, section)?;
        let rounds = self.import.parameters;
        let mut counter = Function::new([(1, ValType::I32)]);
        let mut instructions = counter.instructions();
        instructions.i32_const(ROUNDS).local_set(rounds);
        instructions.loop_(BlockType::Empty);
        instructions.local_get(rounds).i32_const(1).i32_sub().local_tee(rounds).br_if(0).end();
        for parameter in 0..self.import.parameters {
            instructions.local_get(parameter);
        }
        instructions.call(self.index).end();
        code.function(&counter);
        Ok(())
    }
}
