//! The `Range` header (RFC 9110, section 14).

/// Which bytes of a body are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: no range, or one that may be ignored.
    Whole,
    /// From `first` to `last`, both included.
    Part { first: u64, last: u64 },
    /// A range that has no byte of it.
    Nothing,
}

/// Reads a `Range` header against a body of `size` bytes. What is no byte range, or more than one, is ignored, as RFC 9110
/// (14.2) allows: the client then gets everything and sees by the status 200 that it did.
pub(crate) fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(set) =
        header.and_then(|value| value.trim().split_once('=')).and_then(|(unit, set)| unit.eq_ignore_ascii_case("bytes").then_some(set))
    else {
        return Wanted::Whole;
    };
    let Some((first, last)) = set.split_once('-') else { return Wanted::Whole };
    match (number(first), number(last)) {
        (Part::Number(first), Part::Number(last)) if first > last => Wanted::Whole,
        (Part::Number(first), _) if first >= size => {
            if matches!(number(last), Part::Other) {
                Wanted::Whole
            } else {
                Wanted::Nothing
            }
        }
        (Part::Number(first), Part::Number(last)) => Wanted::Part { first, last: last.min(size - 1) },
        (Part::Number(first), Part::Empty) => Wanted::Part { first, last: size - 1 },
        (Part::Empty, Part::Number(0)) => Wanted::Nothing,
        (Part::Empty, Part::Number(_)) if size == 0 => Wanted::Nothing,
        (Part::Empty, Part::Number(count)) => Wanted::Part { first: size.saturating_sub(count), last: size - 1 },
        _ => Wanted::Whole,
    }
}

enum Part {
    Empty,
    Number(u64),
    Other,
}

/// A number past `u64` counts as the largest one: there is no body that long.
fn number(text: &str) -> Part {
    let text = text.trim_matches([' ', '\t']);
    if text.is_empty() {
        Part::Empty
    } else if text.bytes().all(|b| b.is_ascii_digit()) {
        Part::Number(text.parse().unwrap_or(u64::MAX))
    } else {
        Part::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_of_ten_bytes() {
        let part = |first, last| Wanted::Part { first, last };
        for (header, expected) in [
            ("bytes=0-", part(0, 9)),
            ("bytes=0-0", part(0, 0)),
            ("bytes=3-5", part(3, 5)),
            ("BYTES = 3-5", Wanted::Whole),
            ("Bytes=3-5", part(3, 5)),
            ("bytes=9-", part(9, 9)),
            ("bytes=3-99999999999999999999999", part(3, 9)),
            ("bytes=-4", part(6, 9)),
            ("bytes=-40", part(0, 9)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=10-12", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-3", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=20-21,3-4", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("items=0-1", Wanted::Whole),
            ("0-1", Wanted::Whole),
        ] {
            assert_eq!(wanted(Some(header), 10), expected, "{header}");
        }
        assert_eq!(wanted(None, 10), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Nothing);
        assert_eq!(wanted(Some("bytes=-1"), 0), Wanted::Nothing);
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_body(header in "bytes=[0-9]{0,4}-[0-9]{0,4}|\\PC{0,20}", size in 0u64..3000) {
            if let Wanted::Part { first, last } = wanted(Some(&header), size) {
                prop_assert!(first <= last && last < size);
            }
        }
    }
}
