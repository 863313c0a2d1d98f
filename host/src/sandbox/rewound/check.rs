//! Whether putting its memory back puts a whole component back: read from its code, once, when it is loaded.
//!
//! What code can leave behind in an instance is memory, globals, tables, segments that are dropped, and handles. So there is
//! to be one memory, nothing that changes a table or drops a segment, no resource of the component's own, and one mutable
//! global, the stack pointer ([`super::stack`]). A component that has more is none the worse; each call gets a
//! fresh instance of it.

use wasmparser::{
    CanonicalFunction, ComponentType, Encoding, FunctionBody, GlobalType, MemoryType, Operator, Parser, Payload,
    TypeRef, ValType,
};

use super::super::engine::KEEP_RESIDENT;
use super::stack::{self, Signatures};

/// Why calls get fresh instances.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Unfit {
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] wasmparser::BinaryReaderError),
    #[error("it has another number of memories than one")]
    Memories,
    #[error("its memory is shared, or begins with more than {} KiB", KEEP_RESIDENT >> 10)]
    Memory,
    #[error("it has another mutable global than a stack pointer")]
    Global,
    #[error("its function {0} may return with another stack pointer than it was called with")]
    StackPointer(u32),
    #[error("its code changes a table or drops a segment")]
    Table,
    #[error("it makes resources of its own, or uses functions of the component model that leave something behind")]
    Handles,
    #[error("it has a section that this host does not know")]
    Section,
}

/// One core module, as far as it has been read.
#[derive(Default)]
struct Module<'a> {
    signatures: Signatures,
    globals: u32,
    stack_pointer: Option<u32>,
    memories: usize,
    bodies: Vec<FunctionBody<'a>>,
}

/// Whether `component` can be rewound.
pub(in super::super) fn check(component: &[u8]) -> Result<(), Unfit> {
    let mut memories = 0;
    // What is inside of what: a component's sections go on after a module or a component that is nested in it.
    let mut open = Vec::new();
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::Version { encoding, .. } => {
                // A module in a nested component could be there more than once.
                if encoding == Encoding::Module && open.len() != 1 {
                    return Err(Unfit::Section);
                }
                open.push(Module::default());
            }
            Payload::End(_) => {
                let module = open.pop().unwrap_or_default();
                module.check()?;
                memories += module.memories;
            }
            payload => {
                if let Some(module) = open.last_mut() {
                    module.read(payload)?;
                }
            }
        }
    }
    if memories == 1 { Ok(()) } else { Err(Unfit::Memories) }
}

impl<'a> Module<'a> {
    fn read(&mut self, payload: Payload<'a>) -> Result<(), Unfit> {
        match payload {
            Payload::TypeSection(section) => {
                for group in section {
                    for ty in group?.into_types() {
                        self.signatures.types.push(ty);
                    }
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    match import?.ty {
                        TypeRef::Func(ty) => self.signatures.functions.push(ty),
                        TypeRef::Table(_) => {}
                        TypeRef::Memory(ty) => memory(&ty)?,
                        TypeRef::Global(GlobalType { mutable: false, .. }) => self.globals += 1,
                        _ => return Err(Unfit::Global),
                    }
                }
            }
            Payload::FunctionSection(section) => {
                for ty in section {
                    self.signatures.functions.push(ty?);
                }
            }
            Payload::MemorySection(section) => {
                for ty in section {
                    memory(&ty?)?;
                    self.memories += 1;
                }
            }
            Payload::GlobalSection(section) => {
                for global in section {
                    let GlobalType { content_type, mutable, shared } = global?.ty;
                    if mutable && (shared || content_type != ValType::I32 || self.stack_pointer.is_some()) {
                        return Err(Unfit::Global);
                    }
                    if mutable {
                        self.stack_pointer = Some(self.globals);
                    }
                    self.globals += 1;
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    // Other modules could set it.
                    if export.kind == wasmparser::ExternalKind::Global && Some(export.index) == self.stack_pointer {
                        return Err(Unfit::Global);
                    }
                }
            }
            Payload::CodeSectionEntry(body) => self.bodies.push(body),
            // Modules are instantiated by these; of one with a memory more than once, instances are not kept.
            Payload::InstanceSection(_) => {}
            Payload::CustomSection(_)
            | Payload::TableSection(_)
            | Payload::StartSection { .. }
            | Payload::ElementSection(_)
            | Payload::DataCountSection { .. }
            | Payload::DataSection(_)
            | Payload::CodeSectionStart { .. }
            | Payload::CoreTypeSection(_)
            | Payload::ModuleSection { .. }
            | Payload::ComponentSection { .. }
            | Payload::ComponentInstanceSection(_)
            | Payload::ComponentAliasSection(_)
            | Payload::ComponentImportSection(_)
            | Payload::ComponentExportSection(_) => {}
            Payload::ComponentTypeSection(section) => {
                for ty in section {
                    if let ComponentType::Resource { .. } = ty? {
                        return Err(Unfit::Handles);
                    }
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                for function in section {
                    match function? {
                        CanonicalFunction::Lift { .. }
                        | CanonicalFunction::Lower { .. }
                        | CanonicalFunction::ResourceDrop { .. } => {}
                        _ => return Err(Unfit::Handles),
                    }
                }
            }
            _ => return Err(Unfit::Section),
        }
        Ok(())
    }

    /// Of the whole module, what its functions do.
    fn check(&self) -> Result<(), Unfit> {
        // It is in the module with the memory, so that there is one of it too.
        if self.stack_pointer.is_some() && self.memories != 1 {
            return Err(Unfit::Global);
        }
        let imported = self.signatures.functions.len().saturating_sub(self.bodies.len());
        for (index, body) in (imported..).zip(&self.bodies) {
            let mut operators = body.get_operators_reader()?;
            let mut uses_stack = false;
            while !operators.eof() {
                match operators.read()? {
                    Operator::TableSet { .. }
                    | Operator::TableGrow { .. }
                    | Operator::TableFill { .. }
                    | Operator::TableCopy { .. }
                    | Operator::TableInit { .. }
                    | Operator::ElemDrop { .. }
                    | Operator::MemoryInit { .. }
                    | Operator::DataDrop { .. } => return Err(Unfit::Table),
                    Operator::GlobalSet { .. } => uses_stack = true,
                    _ => {}
                }
            }
            let function = u32::try_from(index).unwrap_or(u32::MAX);
            if uses_stack && !stack::is_restored(&self.signatures, function, body, self.stack_pointer)? {
                return Err(Unfit::StackPointer(function));
            }
        }
        Ok(())
    }
}

fn memory(ty: &MemoryType) -> Result<(), Unfit> {
    let page = ty.page_size_log2.map_or(64 << 10, |log2| 1_u64.checked_shl(log2).unwrap_or(u64::MAX));
    let initial = ty.initial.checked_mul(page);
    if ty.shared || initial.is_none_or(|initial| initial > KEEP_RESIDENT as u64) { Err(Unfit::Memory) } else { Ok(()) }
}
