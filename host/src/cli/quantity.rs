//! Sizes as Kubernetes quantities ("4Mi", "16M", "1048576"), the notation of daprd's size flags.

/// Parses a quantity of bytes.
pub(super) fn parse(text: &str) -> Result<usize, String> {
    let wrong = || format!("{text:?} is not a size; write for example 4Mi, 512Ki or 1048576");
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let unit: usize = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(wrong()),
    };
    let number: usize = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|size| *size > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [("1", 1), ("4Mi", 4 << 20), ("512Ki", 512 << 10), ("16M", 16_000_000), ("1Gi", 1 << 30)] {
            assert_eq!(parse(text), Ok(size));
        }
        for text in ["", "0", "Mi", "4 Mi", "4MB", "-1", "1.5Mi", "99999999999999999999", "99999999999999Gi"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
