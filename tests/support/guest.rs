//! Applications as components, written by hand: an echo, and what does harm. The unit tests of
//! host/src/app/component/ include this file too.

#![allow(dead_code, unreachable_pub, reason = "each of the two uses some of them")]

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Says what it was told: the message is the answer.
pub const ECHO: &str = "(call $some (local.get 2) (local.get 3))";

pub const TRAP: &str = "unreachable";
pub const LOOP: &str = "(loop $again (br $again)) unreachable";
pub const GRAB: &str = "(loop $more (drop (memory.grow (i32.const 16))) (br $more)) unreachable";
pub const RECURSE: &str = "(call $deeper) unreachable";
/// Says nothing.
pub const NOTHING: &str = "(i32.const 0)";
/// `failed`, with the whole message as the reason.
pub const FAIL: &str = "(call $error (i32.const 0) (local.get 2) (local.get 3))";
pub const NOT_READING: &str = "(call $error (i32.const 1) (i32.const 0) (i32.const 0))";
pub const REUSED: &str = "(call $error (i32.const 2) (i32.const 0) (i32.const 0))";

/// An answer of so many bytes, which it has.
pub fn answer_of(bytes: u32) -> String {
    format!("(drop (memory.grow (i32.const {}))) (call $some (i32.const 0) (i32.const {bytes}))", (bytes >> 16) + 1)
}

/// A component that imports `imports` of WASI, declares them with `core`, and does `body` for each message: a function of
/// id, data and metadata as pointers and lengths, with four more locals, whose result is a pointer to the answer.
pub fn component(imports: &[&str], core: &str, body: &str) -> Vec<u8> {
    let imports: String = imports.iter().map(|import| format!("import wasi:{import}@0.2.12; ")).collect();
    let module = format!(
        r#"(module {core}
          (memory (export "memory") 2)
          (global $next (mut i32) (i32.const 1024))
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (local i32)
            (local.set 4 (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
            (global.set $next (i32.add (local.get 4) (local.get 3)))
            (loop $grow
              (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
                (then (drop (memory.grow (i32.const 1))) (br $grow))))
            (local.get 4))
          (func $some (param i32 i32) (result i32)
            (i32.store (i32.const 4) (i32.const 1))
            (i32.store (i32.const 8) (local.get 0))
            (i32.store (i32.const 12) (local.get 1))
            (i32.const 0))
          (func $error (param i32 i32 i32) (result i32)
            (i32.store (i32.const 0) (i32.const 1))
            (i32.store (i32.const 4) (local.get 0))
            (i32.store (i32.const 8) (local.get 1))
            (i32.store (i32.const 12) (local.get 2))
            (i32.const 0))
          (func $deeper (call $deeper))
          (func (export "dingtalk:binding/handler@0.2.0#handle")
            (param i32 i32 i32 i32 i32 i32) (result i32)
            (local i32 i32 i32 i32)
            {body}))"#
    );
    encode(&format!("{imports} export dingtalk:binding/handler@0.2.0;"), &module)
}

/// A component of a world with these items, made of a core module.
pub fn encode(items: &str, module: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    for package in [wit.clone(), wit.join("component")] {
        resolve.push_dir(package).unwrap();
    }
    let text = format!("package test:guest@0.1.0; world guest {{ {items} }}");
    let package = resolve.push_str("guest.wit", &text).unwrap();
    let world = resolve.select_world(&[package], Some("guest")).unwrap();
    let mut module = wat::parse_str(module).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
}

/// Writes `kib` times 1 KiB of lines to standard output, and says nothing.
pub fn printing(kib: u32) -> Vec<u8> {
    let core = r#"
        (import "wasi:cli/stdout@0.2.12" "get-stdout" (func $stdout (result i32)))
        (import "wasi:io/streams@0.2.12" "[method]output-stream.blocking-write-and-flush"
          (func $write (param i32 i32 i32 i32)))"#;
    let body = format!(
        r#"(local.set 6 (call $stdout))
        (memory.fill (i32.const 70000) (i32.const 120) (i32.const 1023))
        (i32.store8 (i32.const 71023) (i32.const 10))
        (loop $again
          (call $write (local.get 6) (i32.const 70000) (i32.const 1024) (i32.const 64))
          (local.set 7 (i32.add (local.get 7) (i32.const 1)))
          (br_if $again (i32.lt_u (local.get 7) (i32.const {kib}))))
        (i32.const 0)"#
    );
    component(&["cli/stdout", "io/streams"], core, &body)
}

/// Waits for a very long time.
pub fn sleeping() -> Vec<u8> {
    let core = r#"
        (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration" (func $subscribe (param i64) (result i32)))
        (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))"#;
    let body = "(call $block (call $subscribe (i64.const 9000000000000000000))) unreachable";
    component(&["clocks/monotonic-clock", "io/poll"], core, body)
}

/// Ends the program as if it were one.
pub fn exiting() -> Vec<u8> {
    let core = r#"(import "wasi:cli/exit@0.2.12" "exit" (func $exit (param i32)))"#;
    component(&["cli/exit"], core, "(call $exit (i32.const 1)) unreachable")
}

/// Answers with the number of environment variables, arguments, and folders that it can open, and whether it could make
/// a socket: four digits.
pub fn looking_around() -> Vec<u8> {
    let core = r#"
        (import "wasi:cli/environment@0.2.12" "get-environment" (func $variables (param i32)))
        (import "wasi:cli/environment@0.2.12" "get-arguments" (func $arguments (param i32)))
        (import "wasi:filesystem/preopens@0.2.12" "get-directories" (func $folders (param i32)))
        (import "wasi:sockets/tcp-create-socket@0.2.12" "create-tcp-socket" (func $socket (param i32 i32)))
        (func $digit (param i32 i32) (i32.store8 (local.get 0) (i32.add (i32.const 48) (local.get 1))))"#;
    let body = r#"
        (call $variables (i32.const 64))
        (call $digit (i32.const 32) (i32.load (i32.const 68)))
        (call $arguments (i32.const 64))
        (call $digit (i32.const 33) (i32.load (i32.const 68)))
        (call $folders (i32.const 64))
        (call $digit (i32.const 34) (i32.load (i32.const 68)))
        (call $socket (i32.const 0) (i32.const 64))
        (call $digit (i32.const 35) (i32.eqz (i32.load8_u (i32.const 64))))
        (call $some (i32.const 32) (i32.const 4))"#;
    let imports = ["cli/environment", "filesystem/preopens", "sockets/tcp-create-socket"];
    component(&imports, core, body)
}

/// GETs `/` of the host and port that the message is, in quotation marks, `times` times, and answers with the last one's
/// status, or with the number of the error and 900.
pub fn calling(times: u32) -> Vec<u8> {
    requesting("", "(i32.add (local.get 2) (i32.const 1)) (i32.sub (local.get 3) (i32.const 2))", times)
}

/// The same once, of this host and port, whatever the message is.
pub fn calling_at(authority: &str) -> Vec<u8> {
    let data = format!("(data (i32.const 256) {authority:?})");
    requesting(&data, &format!("(i32.const 256) (i32.const {})", authority.len()), 1)
}

fn requesting(data: &str, authority: &str, times: u32) -> Vec<u8> {
    let core = r#"
        (import "wasi:http/types@0.2.12" "[constructor]fields" (func $fields (result i32)))
        (import "wasi:http/types@0.2.12" "[constructor]outgoing-request" (func $request (param i32) (result i32)))
        (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-authority"
          (func $authority (param i32 i32 i32 i32) (result i32)))
        (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-scheme"
          (func $scheme (param i32 i32 i32 i32 i32) (result i32)))
        (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-path-with-query"
          (func $path (param i32 i32 i32 i32) (result i32)))
        (import "wasi:http/outgoing-handler@0.2.12" "handle" (func $send (param i32 i32 i32 i32)))
        (import "wasi:http/types@0.2.12" "[method]future-incoming-response.subscribe"
          (func $subscribe (param i32) (result i32)))
        (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
        (import "wasi:http/types@0.2.12" "[method]future-incoming-response.get" (func $get (param i32 i32)))
        (import "wasi:http/types@0.2.12" "[method]incoming-response.status" (func $status (param i32) (result i32)))"#;
    let body = format!(
        r#"(loop $again
          (local.set 6 (call $request (call $fields)))
          (drop (call $authority (local.get 6) (i32.const 1)
            {authority}))
          (drop (call $scheme (local.get 6) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)))
          (i32.store8 (i32.const 48) (i32.const 47))
          (drop (call $path (local.get 6) (i32.const 1) (i32.const 48) (i32.const 1)))
          (call $send (local.get 6) (i32.const 0) (i32.const 0) (i32.const 64))
          (local.set 6 (i32.load (i32.const 72)))
          (call $block (call $subscribe (local.get 6)))
          (call $get (local.get 6) (i32.const 128))
          (local.set 7 (if (result i32) (i32.load8_u (i32.const 144))
            (then (i32.add (i32.const 900) (i32.load8_u (i32.const 152))))
            (else (call $status (i32.load (i32.const 152))))))
          (local.set 8 (i32.add (local.get 8) (i32.const 1)))
          (br_if $again (i32.lt_u (local.get 8) (i32.const {times}))))
        (i32.store8 (i32.const 32) (i32.add (i32.const 48) (i32.div_u (local.get 7) (i32.const 100))))
        (i32.store8 (i32.const 33)
          (i32.add (i32.const 48) (i32.rem_u (i32.div_u (local.get 7) (i32.const 10)) (i32.const 10))))
        (i32.store8 (i32.const 34) (i32.add (i32.const 48) (i32.rem_u (local.get 7) (i32.const 10))))
        (call $some (i32.const 32) (i32.const 3))"#
    );
    component(&["http/types", "http/outgoing-handler", "io/poll"], &(core.to_owned() + data), &body)
}
