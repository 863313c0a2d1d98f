//! A bindings request: its parts, and where they stand. The body is read as daprd reads it.
//!
//! daprd decodes with Go's encoding/json, whose habits clients have come to rely on: names match in any case,
//! the last of several counts, null means absent, and what follows the first JSON value is ignored. One habit
//! is not copied: Go decodes `data` and writes it again, which sorts members and loses digits. Here `data`
//! reaches the component as it was written.

use std::collections::HashSet;
use std::fmt;

use dingtalk_binding::contract::InvokeRequest;
use dingtalk_binding::json;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::invoke::undecodable;
use crate::problem::Problem;
use crate::query;

/// Where a request has its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// All of them in the body: Dapr's envelope of operation, data and metadata.
    Envelope,
    /// The operation in the path, which is this one, and metadata in the query. The body is data, whatever is in it, as over
    /// gRPC: who cannot build the envelope cannot be asked to escape a text either.
    Bare(String),
}

/// Puts a request together.
pub fn read(form: Form, query: Option<&str>, body: Vec<u8>) -> Result<InvokeRequest, Problem> {
    match form {
        Form::Envelope => decode(&body).map_err(|what| undecodable(&what)),
        Form::Bare(operation) => {
            let metadata = query::metadata(query.unwrap_or_default()).map_err(Problem::malformed)?;
            Ok(InvokeRequest { operation, data: body, metadata })
        }
    }
}

/// Items of `metadata`, repeated ones included. No binding knows more than a handful; each costs an allocation here
/// and one in the sandbox.
pub const MAX_METADATA: usize = 1_000;

/// Decodes a request body. The error is daprd's `message`, after "failed deserializing HTTP body: ".
pub fn decode(body: &[u8]) -> Result<InvokeRequest, String> {
    if body.trim_ascii().is_empty() {
        // Go's text for an empty body, which is what people find when they search for it.
        return Err("EOF".into());
    }
    // Half a surrogate pair is no mistake to Go.
    let body = json::mended(body);
    let mut json = serde_json::Deserializer::from_slice(&body);
    let Body { operation, data, metadata } = Body::deserialize(&mut json).map_err(|error| error.to_string())?;
    let metadata = last_of_each(metadata);
    let data = data.map_or(b"null".as_slice(), |data| data.get().as_bytes()).to_vec();
    Ok(InvokeRequest { operation, data, metadata })
}

#[derive(Default)]
struct Body<'a> {
    operation: String,
    data: Option<&'a RawValue>,
    metadata: Vec<(String, String)>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Body<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Go;
        impl<'de> Visitor<'de> for Go {
            type Value = Body<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with operation, data and metadata")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Body::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut body = Body::default();
                while let Some(name) = map.next_key::<String>()? {
                    match name.to_ascii_lowercase().as_str() {
                        "operation" => {
                            if let Some(operation) = map.next_value()? {
                                body.operation = operation;
                            }
                        }
                        "data" => body.data = map.next_value()?,
                        "metadata" => {
                            map.next_value_seed(Pairs(&mut body.metadata))?;
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(body)
            }
        }
        deserializer.deserialize_any(Go)
    }
}

/// Metadata: an object of strings, or null. Adds to what is there.
struct Pairs<'a>(&'a mut Vec<(String, String)>);

impl<'de> DeserializeSeed<'de> for Pairs<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pairs<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("metadata: an object whose values are strings")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry::<String, Option<String>>()? {
            if self.0.len() == MAX_METADATA {
                return Err(A::Error::custom(too_many()));
            }
            self.0.push((name, value.unwrap_or_default()));
        }
        Ok(())
    }
}

/// There are more than [`MAX_METADATA`].
pub fn too_many() -> String {
    format!("metadata has more than {MAX_METADATA} items; send fewer")
}

/// Of pairs with one name the last, where it stands.
fn last_of_each(mut pairs: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut seen = HashSet::new();
    pairs.reverse();
    pairs.retain(|(name, _)| seen.insert(name.clone()));
    pairs.reverse();
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(body: &str) -> (String, String, Vec<(String, String)>) {
        let InvokeRequest { operation, data, metadata } = decode(body.as_bytes()).expect(body);
        (operation, String::from_utf8(data).unwrap(), metadata)
    }

    #[test]
    fn gos_habits() {
        let specification = r#"{"data": {"message": "Hi"}, "operation": "create"}"#;
        assert_eq!(decoded(specification), ("create".into(), r#"{"message": "Hi"}"#.into(), vec![]));
        for (body, operation, data) in [
            (r#"{"OPERATION":"create","Data":1}"#, "create", "1"),
            (r#"{"operation":"a","operation":"b","data":1,"data":2}"#, "b", "2"),
            (r#"{"operation":"a","operation":null,"unknown":{"x":[1]}}"#, "a", "null"),
            (r#"{"operation":"create"} trailing"#, "create", "null"),
            (r#"null"#, "", "null"),
            (r#"{"metadata":null,"data":null,"operation":null}"#, "", "null"),
            (r#"{"data":"Hi"}"#, "", "\"Hi\""),
            (r#"{"data":12345678901234567890.0}"#, "", "12345678901234567890.0"),
            (r#"{"data": {"b" : 1, "a":2} }"#, "", r#"{"b" : 1, "a":2}"#),
            (r#"{"operation":"\ud800","data":"\ud800\udc00\udc00"}"#, "\u{fffd}", r#""\ud800\udc00\ufffd""#),
        ] {
            assert_eq!(decoded(body), (operation.into(), data.into(), vec![]), "{body}");
        }
        let metadata = decoded(r#"{"metadata":{"a":"1","b":"2"},"Metadata":{"a":"3","c":null}}"#).2;
        let half = decoded(r#"{"metadata":{"title\udfff":"\ud800"}}"#).2;
        assert_eq!(half, [("title\u{fffd}".to_owned(), "\u{fffd}".to_owned())]);
        let expected = [("b", "2"), ("a", "3"), ("c", "")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(metadata, expected);
    }

    #[test]
    fn refusals() {
        for (body, reason) in [
            ("", "EOF"),
            (" \n", "EOF"),
            ("{", "EOF while parsing"),
            ("[]", "invalid type: sequence"),
            ("\"x\"", "invalid type: string"),
            (r#"{"operation":1}"#, "invalid type: integer"),
            (r#"{"metadata":{"a":1}}"#, "invalid type: integer"),
            (r#"{"metadata":["a"]}"#, "metadata: an object"),
            (r#"{"data":{"a":\x}}"#, "expected value"),
        ] {
            let error = decode(body.as_bytes()).expect_err(body);
            assert!(error.contains(reason), "{body}: {error}");
        }
        assert!(decode(b"{\"data\":\"\xff\"}").is_err());
    }

    /// A body with `items` items of metadata, `in_each` in each object.
    fn with_metadata(items: usize, in_each: usize) -> String {
        let names: Vec<String> = (0..items).map(|number| format!(r#""n{number}":"""#)).collect();
        let objects: Vec<String> =
            names.chunks(in_each).map(|names| format!(r#""metadata":{{{}}}"#, names.join(","))).collect();
        format!(r#"{{"operation":"create",{}}}"#, objects.join(","))
    }

    #[test]
    fn items_of_metadata_have_a_limit_in_however_many_objects_they_come() {
        assert_eq!(decoded(&with_metadata(1_000, 1_000)).2.len(), 1_000);
        assert_eq!(decoded(&with_metadata(1_000, 1)).2.len(), 1_000);
        for in_each in [1, 1_001] {
            let error = decode(with_metadata(1_001, in_each).as_bytes()).unwrap_err();
            assert!(error.contains("metadata has more than 1000 items; send fewer"), "{error}");
        }
    }

    #[test]
    fn the_longest_body_is_refused_without_looking_at_every_item_with_every_other() {
        // One by one they took minutes. Nothing here depends on the machine's speed to tell the two apart.
        let body = with_metadata(1_300_000, 1_300_000);
        assert!(body.len() > 15_000_000);
        let start = std::time::Instant::now();
        assert!(decode(body.as_bytes()).is_err());
        assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
    }

    proptest! {
        #[test]
        fn the_last_of_each_name_is_what_taking_them_one_by_one_leaves(pairs: Vec<(u8, String)>) {
            let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| ((name % 8).to_string(), value)).collect();
            let mut expected: Vec<(String, String)> = Vec::new();
            for (name, value) in &pairs {
                expected.retain(|(known, _)| known != name);
                expected.push((name.clone(), value.clone()));
            }
            prop_assert_eq!(last_of_each(pairs), expected);
        }

        #[test]
        fn never_panics(body: Vec<u8>) { let _ = decode(&body); }
    }
}
