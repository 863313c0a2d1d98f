//! The types of wit/types.wit, generated once: the component's exports and the pure modules share them.

#![allow(missing_docs, reason = "generated from wit/types.wit, where the documentation is")]

use alloc::string::String;

wit_bindgen::generate!({
    // Without the functions: to types that are errors of functions, the generator gives texts of its own.
    path: "wit/types.wit",
    inline: "
        package dingtalk:generated;
        world types {
            import dingtalk:binding/types@0.2.0;
        }
    ",
    generate_all,
    generate_unused_types: true,
    additional_derives: [PartialEq, Eq],
});

pub use dingtalk::binding::types::*;

/// Names and values as what reads them takes them.
pub fn pairs(metadata: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> + Clone {
    metadata.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}
