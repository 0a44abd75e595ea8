//! The `Range` header (RFC 9110, section 14).

/// The requested bytes of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByteRange {
    /// All of it: there is no range, or it is ignored.
    Whole,
    /// From `first` to `last`, both included.
    Part { first: u64, last: u64 },
    /// A range outside the body.
    Nothing,
}

/// Parses a `Range` header for a body of `size` bytes. Other units and several ranges are ignored, as RFC 9110 (14.2)
/// allows: the client then gets everything, with status 200.
pub(crate) fn wanted(header: Option<&str>, size: u64) -> ByteRange {
    let Some(set) =
        header.and_then(|value| value.trim().split_once('=')).and_then(|(unit, set)| unit.eq_ignore_ascii_case("bytes").then_some(set))
    else {
        return ByteRange::Whole;
    };
    let Some((first, last)) = set.split_once('-') else { return ByteRange::Whole };
    match (number(first), number(last)) {
        (RangePart::Number(first), RangePart::Number(last)) if first > last => ByteRange::Whole,
        (RangePart::Number(first), _) if first >= size => {
            if matches!(number(last), RangePart::Other) {
                ByteRange::Whole
            } else {
                ByteRange::Nothing
            }
        }
        (RangePart::Number(first), RangePart::Number(last)) => ByteRange::Part { first, last: last.min(size - 1) },
        (RangePart::Number(first), RangePart::Empty) => ByteRange::Part { first, last: size - 1 },
        (RangePart::Empty, RangePart::Number(0)) => ByteRange::Nothing,
        (RangePart::Empty, RangePart::Number(_)) if size == 0 => ByteRange::Nothing,
        (RangePart::Empty, RangePart::Number(count)) => ByteRange::Part { first: size.saturating_sub(count), last: size - 1 },
        _ => ByteRange::Whole,
    }
}

enum RangePart {
    Empty,
    Number(u64),
    Other,
}

/// A number beyond `u64` counts as the largest one: no body is that long.
fn number(text: &str) -> RangePart {
    let text = text.trim_matches([' ', '\t']);
    if text.is_empty() {
        RangePart::Empty
    } else if text.bytes().all(|b| b.is_ascii_digit()) {
        RangePart::Number(text.parse().unwrap_or(u64::MAX))
    } else {
        RangePart::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_of_ten_bytes() {
        let part = |first, last| ByteRange::Part { first, last };
        for (header, expected) in [
            ("bytes=0-", part(0, 9)),
            ("bytes=0-0", part(0, 0)),
            ("bytes=3-5", part(3, 5)),
            ("BYTES = 3-5", ByteRange::Whole),
            ("Bytes=3-5", part(3, 5)),
            ("bytes=9-", part(9, 9)),
            ("bytes=3-99999999999999999999999", part(3, 9)),
            ("bytes=-4", part(6, 9)),
            ("bytes=-40", part(0, 9)),
            ("bytes=10-", ByteRange::Nothing),
            ("bytes=10-12", ByteRange::Nothing),
            ("bytes=99999999999999999999999-", ByteRange::Nothing),
            ("bytes=-0", ByteRange::Nothing),
            ("bytes=5-3", ByteRange::Whole),
            ("bytes=0-1,3-4", ByteRange::Whole),
            ("bytes=20-21,3-4", ByteRange::Whole),
            ("bytes=", ByteRange::Whole),
            ("bytes=-", ByteRange::Whole),
            ("bytes=a-b", ByteRange::Whole),
            ("bytes=+1-2", ByteRange::Whole),
            ("items=0-1", ByteRange::Whole),
            ("0-1", ByteRange::Whole),
        ] {
            assert_eq!(wanted(Some(header), 10), expected, "{header}");
        }
        assert_eq!(wanted(None, 10), ByteRange::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), ByteRange::Nothing);
        assert_eq!(wanted(Some("bytes=-1"), 0), ByteRange::Nothing);
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_body(header in "bytes=[0-9]{0,4}-[0-9]{0,4}|\\PC{0,20}", size in 0u64..3000) {
            if let ByteRange::Part { first, last } = wanted(Some(&header), size) {
                prop_assert!(first <= last && last < size);
            }
        }
    }
}
