//! [`answer::classify`] takes for success what has `errcode` 0 and nothing else, and repeats no text without
//! `redact`.
//!
//! The input is the body. One that begins with `i` is cut off, one that begins with `s` has two bytes of
//! status: no JSON begins so.

#![no_main]

use dingtalk_binding::answer::{self, Answer};
use dingtalk_binding::error::{AnswerError, InvokeCause};
use dingtalk_fuzz::{Document, Value, last, text};
use libfuzzer_sys::fuzz_target;

fn whole_number(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_str().parse().ok(),
        Value::String(text) => text.as_str().trim().parse().ok(),
        _ => None,
    }
}

fuzz_target!(|input: &[u8]| {
    let (status, complete, body) = match input {
        [b'i', body @ ..] => (200, false, body),
        [b's', high, low, body @ ..] => (u16::from_be_bytes([*high, *low]), true, body),
        body => (200, true, body),
    };
    let answer = Answer { status, body: body.to_vec(), complete };
    let outcome = answer::classify(&answer, |text| format!("redacted {text}"));

    if status != 200 {
        assert_eq!(outcome, Err(InvokeCause::UnexpectedAnswer(AnswerError::Status(status))));
        return;
    }
    // A byte order mark in front, and what surrounds the answer, are no part of it.
    let marked_off = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii();
    let document = Document::read(marked_off).filter(|_| complete && body.len() <= 64 * 1024);
    let Some(result) = document.as_ref().and_then(Document::object) else {
        assert!(matches!(outcome, Err(InvokeCause::UnexpectedAnswer(_))), "{outcome:?}");
        return;
    };
    if document.as_ref().is_some_and(|document| !document.exact) {
        return;
    }
    let errcode = last(result, "errcode").and_then(whole_number);
    let errmsg = format!("redacted {}", last(result, "errmsg").and_then(text).unwrap_or_default());
    match (outcome, errcode) {
        (Ok(accepted), Some(0)) => assert_eq!(accepted.errmsg, errmsg),
        (Err(InvokeCause::Rejected(rejection)), Some(errcode)) => {
            assert_ne!(errcode, 0);
            assert_eq!((rejection.errcode, rejection.errmsg), (errcode, errmsg));
        }
        (Err(InvokeCause::UnexpectedAnswer(AnswerError::Throttled(_))), None) => {
            assert_eq!(last(result, "status").and_then(whole_number), Some(1111));
        }
        (Err(InvokeCause::UnexpectedAnswer(_)), None) => {}
        (outcome, errcode) => panic!("{outcome:?} for errcode {errcode:?}"),
    }
});
