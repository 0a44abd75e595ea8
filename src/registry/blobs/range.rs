//! The `Content-Range` header of a 206 answer (RFC 9110, 14.4).

/// What part of a blob an answer brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// The first byte's position.
    pub(super) first: u64,
    /// The last byte's position.
    pub(super) last: u64,
    /// The blob's size; `None`: unknown (`*`).
    pub(super) total: Option<u64>,
}

/// Reads `bytes 0-99/1234` or `bytes 0-99/*`.
pub(super) fn parse(header: &str) -> Option<ContentRange> {
    let (unit, rest) = header.trim().split_once(' ')?;
    let (range, total) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let total = match total {
        "*" => None,
        total => Some(number(total)?),
    };
    let found = ContentRange { first: number(first)?, last: number(last)?, total };
    let sound = found.first <= found.last && found.total.is_none_or(|total| found.last < total);
    (unit.eq_ignore_ascii_case("bytes") && sound).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges() {
        let range = |first, last, total| Some(ContentRange { first, last, total });
        for (header, expected) in [
            ("bytes 0-99/1234", range(0, 99, Some(1234))),
            ("Bytes 5-5/6", range(5, 5, Some(6))),
            ("bytes 5-9/*", range(5, 9, None)),
            ("bytes 5-9/9", None),
            ("bytes 9-5/20", None),
            ("bytes */20", None),
            ("bytes -5/20", None),
            ("bytes +1-5/20", None),
            ("0-99/1234", None),
            ("bytes 0-99", None),
            ("bytes 0-99999999999999999999/*", None),
            ("", None),
        ] {
            assert_eq!(parse(header), expected, "{header}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(first in 0u64..1 << 40, length in 1u64..1 << 40, rest in 0u64..1 << 40) {
            let (last, total) = (first + length - 1, first + length + rest);
            prop_assert_eq!(parse(&format!("bytes {first}-{last}/{total}")), Some(ContentRange { first, last, total: Some(total) }));
        }
        #[test]
        fn no_header_makes_it_panic(header in "\\PC{0,40}") {
            let _ = parse(&header);
        }
    }
}
