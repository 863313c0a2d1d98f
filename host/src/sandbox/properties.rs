//! A tenant's properties between its calls: one text instead of two for each property, which are half as many bytes. A call
//! gets them as the contract has them.

use super::wit;

/// Names and values, secrets among them: no `Debug`.
pub(super) struct Properties {
    text: Box<str>,
    /// Where in the text each name ends, and each value.
    ends: Box<[u32]>,
}

impl Properties {
    pub(super) fn new(list: &[(&str, &str)]) -> Self {
        let parts = || list.iter().flat_map(|(name, value)| [*name, *value]);
        let ends = parts().scan(0_usize, |end, part| {
            *end += part.len();
            // Files are not as large.
            Some(u32::try_from(*end).unwrap_or(u32::MAX))
        });
        Self { text: parts().collect::<String>().into(), ends: ends.collect() }
    }

    pub(super) fn list(&self) -> wit::Metadata {
        let mut begin = 0;
        let mut part = |end: &u32| {
            let end = usize::try_from(*end).unwrap_or(usize::MAX);
            self.text.get(std::mem::replace(&mut begin, end)..end).unwrap_or_default().to_owned()
        };
        let (pairs, _) = self.ends.as_chunks();
        pairs.iter().map(|[name, value]| (part(name), part(value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_comes_out_is_what_was_put_in(list in proptest::collection::vec((".{0,8}", ".{0,40}"), 0..12)) {
            let pairs: Vec<_> = list.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            prop_assert_eq!(Properties::new(&pairs).list(), list);
        }
    }
}
