//! A message that its sender has compressed: how long it says that it is, and no more of it than that.

use std::io::Read;

use flate2::read::GzDecoder;

/// The end of what gzip makes: the length of the content, of which four bytes are kept.
const LENGTH: usize = 4;

/// How long the content of `compressed` says that it is, if that can be any.
pub(super) fn length(compressed: &[u8]) -> Option<usize> {
    let length = compressed.last_chunk::<LENGTH>()?;
    usize::try_from(u32::from_le_bytes(*length)).ok()
}

/// Puts the content of `compressed` behind what is in `out`, if it is as long as it says: a byte more is not looked at.
pub(super) fn inflate(compressed: &[u8], length: usize, out: &mut Vec<u8>) -> Option<()> {
    let before = out.len();
    out.reserve_exact(length);
    let mut decoder = GzDecoder::new(compressed);
    let most = u64::try_from(length).ok()?;
    decoder.by_ref().take(most).read_to_end(out).ok()?;
    // Its checksum is looked at where it ends.
    let is_end = matches!(decoder.read(&mut [0]), Ok(0));
    (is_end && out.len() - before == length).then_some(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn who_says_less_than_there_is_gets_no_more() {
        let mut bomb = gzip(&vec![0; 64 << 20]);
        assert_eq!(length(&bomb), Some(64 << 20));
        let end = bomb.len() - LENGTH;
        bomb[end..].copy_from_slice(&1_000_u32.to_le_bytes());
        let mut out = Vec::new();
        assert_eq!(inflate(&bomb, 1_000, &mut out), None);
        assert!(out.capacity() < 10_000, "{}", out.capacity());
        // Nor does who says more.
        let short = gzip(b"short");
        assert_eq!(inflate(&short, 6, &mut Vec::new()), None);
        let mut wrong = short.clone();
        wrong[12] ^= 1;
        assert_eq!(inflate(&wrong, 5, &mut Vec::new()), None);
        assert_eq!(length(b"abc"), None);
    }

    proptest! {
        #[test]
        fn whatever_is_compressed_comes_back(content: Vec<u8>) {
            let compressed = gzip(&content);
            let mut out = b"before".to_vec();
            prop_assert_eq!(inflate(&compressed, length(&compressed).unwrap(), &mut out), Some(()));
            prop_assert_eq!(out, [b"before", &content[..]].concat());
        }

        #[test]
        fn never_panics(bytes: Vec<u8>, length in 0_usize..1_000) {
            let mut out = Vec::new();
            let _ = inflate(&bytes, length, &mut out);
            prop_assert!(out.len() <= length);
        }
    }
}
