//! Components that could leave something behind, and those that cannot.

use super::*;
use crate::sandbox::rewound::check::check;

/// Our component, whose text `edit` changes. Its parts are printed one by one: a printed component cannot be read again
/// where names in it are those of WIT.
pub(super) fn with_another_global() -> Vec<u8> {
    let text = wasmprinter::print_bytes(dingtalk_component::COMPONENT).unwrap();
    let globals = text.find("(global (;0;) (mut i32)").unwrap();
    let (before, after) = text.split_at(globals);
    // Behind the others, so that their numbers stay.
    let end = after.find("\n    (export").unwrap();
    let (globals, after) = after.split_at(end);
    wat::parse_str(format!("{before}{globals}\n(global (mut i32) i32.const 0){after}")).unwrap()
}

/// Our component, which has one more instance of the module that its memory is in.
pub(super) fn with_its_module_twice() -> Vec<u8> {
    let text = wasmprinter::print_bytes(dingtalk_component::COMPONENT).unwrap();
    let at = text.find("(instantiate 0").unwrap();
    let end = at + text[at..].find("\n  )").unwrap();
    let (before, after) = text.trim_end().rsplit_once(')').unwrap();
    wat::parse_str(format!("{before} (core instance {}\n)){after}", &text[at..end])).unwrap()
}

fn of_module(fields: &str) -> Result<(), Unfit> {
    of(&format!("(core module (memory 1) {fields})"))
}

fn of(fields: &str) -> Result<(), Unfit> {
    check(&wat::parse_str(format!("(component {fields})")).unwrap())
}

#[test]
fn our_component_can_be_rewound() {
    check(dingtalk_component::COMPONENT).unwrap();
}

#[test]
fn what_could_remember_something_is_refused() {
    of_module("(table 1 funcref) (elem (i32.const 0) func $f) (func $f)").unwrap();
    for code in [
        "(table.set (i32.const 0) (ref.null func))",
        "(drop (table.grow (ref.null func) (i32.const 1)))",
        "(table.fill (i32.const 0) (ref.null func) (i32.const 1))",
        "(table.copy (i32.const 0) (i32.const 0) (i32.const 1))",
        "(table.init 0 (i32.const 0) (i32.const 0) (i32.const 1))",
        "(elem.drop 0)",
        "(memory.init 0 (i32.const 0) (i32.const 0) (i32.const 1))",
        "(data.drop 0)",
    ] {
        let module = format!("(table 1 funcref) (elem func $f) (data \"x\") (func $f {code})");
        assert!(matches!(of_module(&module), Err(Unfit::Table)), "{code}");
    }
    for globals in [
        "(global (mut i32) i32.const 0) (global (mut i32) i32.const 0)",
        "(global (mut i64) i64.const 0)",
        "(global (mut funcref) ref.null func)",
        "(global (mut i32) i32.const 0) (export \"sp\" (global 0))",
    ] {
        assert!(matches!(of_module(globals), Err(Unfit::Global)), "{globals}");
    }
    let imported = "(core module (import \"a\" \"b\" (global (mut i32))) (memory 1))";
    assert!(matches!(of(imported), Err(Unfit::Global)));
    let apart = "(core module (memory 1)) (core module (global (mut i32) i32.const 0))";
    assert!(matches!(of(apart), Err(Unfit::Global)));
    for modules in ["", "(core module)", "(core module (memory 1)) (core module (memory 1))"] {
        assert!(matches!(of(modules), Err(Unfit::Memories)), "{modules}");
    }
    for memory in ["(memory 1 1 shared)", "(memory 5)"] {
        assert!(matches!(of(&format!("(core module {memory})")), Err(Unfit::Memory)), "{memory}");
    }
    let nested = "(component (core module (memory 1)))";
    assert!(matches!(of(nested), Err(Unfit::Section)));
    let resource = "(core module (memory 1)) (type (resource (rep i32)))";
    assert!(matches!(of(resource), Err(Unfit::Handles)));
    let kept = "(core module (memory 1)) (core func (canon context.get i32 0))";
    assert!(matches!(of(kept), Err(Unfit::Handles)));
}

/// As LLVM writes it, and what it must not write.
#[test]
fn the_stack_pointer_is_restored_on_every_way_out() {
    let enter = "(local.tee $sp (i32.sub (global.get 0) (i32.const 16))) (global.set 0)";
    let leave = "(global.set 0 (i32.add (local.get $sp) (i32.const 16)))";
    let check = |body: &str| {
        let body = body.replace("ENTER", enter).replace("LEAVE", leave);
        let locals = "(local $sp i32) (local $saved i32)";
        of_module(&format!(
            "(global (mut i32) i32.const 65536) (func $g (param i32)) (func $f (param $x i32) {locals} {body})"
        ))
    };
    for restored in [
        "",
        "ENTER LEAVE",
        "ENTER (call $g (i32.add (local.get $sp) (i32.const 8))) LEAVE",
        "ENTER (if (local.get $x) (then LEAVE return)) LEAVE",
        "ENTER (if (local.get $x) (then LEAVE) (else LEAVE))",
        "ENTER (block (br_if 0 (local.get $x)) (call $g (i32.const 1))) LEAVE",
        "ENTER (block (block (br_table 0 1 (local.get $x))) LEAVE return) LEAVE",
        "ENTER (loop (br_if 0 (local.tee $x (i32.sub (local.get $x) (i32.const 1))))) LEAVE",
        "ENTER (if (local.get $x) (then unreachable)) LEAVE",
        "ENTER unreachable",
        // One larger frame for an alignment: the first value is kept.
        "(local.set $saved (global.get 0)) (global.set 0 (i32.and (i32.sub (global.get 0) (i32.const 64)) \
         (i32.const -32))) (call $g (global.get 0)) (global.set 0 (local.get $saved))",
        // Behind a jump, nothing counts.
        "ENTER (block (br 0) (global.set 0 (i32.const 7))) LEAVE",
    ] {
        check(restored).unwrap_or_else(|error| panic!("{error}: {restored}"));
    }
    for left in [
        "ENTER",
        "(global.set 0 (local.get $x))",
        "(global.set 0 (i32.add (global.get 0) (i32.const 1)))",
        "ENTER (if (local.get $x) (then return)) LEAVE",
        "ENTER (if (local.get $x) (then LEAVE))",
        "ENTER (if (local.get $x) (then LEAVE) (else))",
        "ENTER (block (br_if 0 (local.get $x)) LEAVE)",
        "ENTER (br_if 0 (local.get $x)) LEAVE",
        "ENTER (block (br_table 0 1 (local.get $x))) LEAVE",
        "ENTER (local.set $sp (local.get $x)) LEAVE",
        "ENTER (if (local.get $x) (then (local.set $sp (local.get $x)))) LEAVE",
        "ENTER (if (local.get $x) (then (local.set $sp (local.get $x)) LEAVE) (else LEAVE))",
        "ENTER (loop (call $g (local.get $sp)) LEAVE (br_if 0 (local.get $x)))",
        // The first turn restores it, the second does not.
        "(local.set $saved (global.get 0)) (loop (global.set 0 (local.get $saved)) (local.set $saved (local.get $x)) \
         (br_if 0 (local.get $x)))",
        "ENTER (loop LEAVE (local.set $sp (i32.const 0)) ENTER (br_if 0 (local.get $x))) (global.set 0 (local.get $saved))",
        "(loop (local.set $saved (local.get $sp)) (local.set $sp (global.get 0)) (br_if 0 (local.get $x))) (global.set 0 \
         (local.get $saved))",
        "(global.set 0 (global.get 0)) (return_call $f (global.set 0 (i32.const 1)) (local.get $x))",
    ] {
        assert!(matches!(check(left), Err(Unfit::StackPointer(_))), "{left}");
    }
}
