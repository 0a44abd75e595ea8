//! Splits CSV into records (RFC 4180, section 2): a quoted field may contain line breaks.
//!
//! The csv crate is not used for this: its positions do not count the blank and comment lines before a record, and a
//! quote that is never closed would take in every line after it instead of being an error of its line.

/// One record that is neither blank nor a comment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ListRecord<'a> {
    /// The line it begins at, from 1.
    pub(super) line: usize,
    /// Its text, without the line end.
    pub(super) text: &'a str,
    /// `false`: a quoted field never ends. The record then ends at its first line end, and the next line is parsed
    /// anew.
    pub(super) closed: bool,
}

pub(super) fn records(text: &str) -> ListRecords<'_> {
    ListRecords { rest: text, line: 1 }
}

pub(super) struct ListRecords<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Iterator for ListRecords<'a> {
    type Item = ListRecord<'a>;

    fn next(&mut self) -> Option<ListRecord<'a>> {
        while !self.rest.is_empty() {
            let line = self.line;
            let first = self.rest.find('\n').unwrap_or(self.rest.len());
            let data = self.rest[..first].trim();
            if data.is_empty() || data.starts_with('#') {
                self.take(first);
                continue;
            }
            let end = record_end(self.rest);
            let text = self.take(end.unwrap_or(first));
            return Some(ListRecord { line, text: text.strip_suffix('\r').unwrap_or(text), closed: end.is_some() });
        }
        None
    }
}

impl<'a> ListRecords<'a> {
    /// Removes `length` bytes and the line break after them.
    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.line += taken.matches('\n').count() + 1;
        self.rest = rest.strip_prefix('\n').unwrap_or(rest);
        taken
    }
}

/// The end of the first record of `text`; `None` if the text ends within quotes.
fn record_end(text: &str) -> Option<usize> {
    enum At {
        FieldStart,
        Unquoted,
        Quoted,
        /// After a quote within quotes: it ended the field, or it is the first of two that stand for one.
        Quote,
    }
    let mut at = At::FieldStart;
    for (index, byte) in text.bytes().enumerate() {
        at = match (at, byte) {
            (At::Quoted, b'"') => At::Quote,
            (At::Quoted, _) | (At::Quote | At::FieldStart, b'"') => At::Quoted,
            (_, b'\n') => return Some(index),
            (_, b',') => At::FieldStart,
            _ => At::Unquoted,
        };
    }
    (!matches!(at, At::Quoted)).then_some(text.len())
}

#[cfg(test)]
mod tests {
    use super::super::columns::fields;
    use super::*;
    use proptest::prelude::*;

    fn summary(text: &str) -> Vec<(usize, &str, bool)> {
        records(text).map(|record| (record.line, record.text, record.closed)).collect()
    }

    #[test]
    fn records_know_their_lines() {
        for (text, expected) in [
            ("", vec![]),
            ("\n \r\n# x\n", vec![]),
            ("a", vec![(1, "a", true)]),
            ("a\r\nb\r\n", vec![(1, "a", true), (2, "b", true)]),
            ("\n# \"never, \"closed\n\na,\"b\n\n# no comment\"\"\"\nc\n", vec![(4, "a,\"b\n\n# no comment\"\"\"", true), (7, "c", true)]),
            ("a,\"b\nc\nd", vec![(1, "a,\"b", false), (2, "c", true), (3, "d", true)]),
            ("a\"b\nc", vec![(1, "a\"b", true), (2, "c", true)]),
            ("\"a\"b\",\"c\nd\"", vec![(1, "\"a\"b\",\"c\nd\"", true)]),
            ("\"", vec![(1, "\"", false)]),
        ] {
            assert_eq!(summary(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_file_full_of_open_quotes_is_read_in_linear_time() {
        let text = "a,\"b\"\"\n".repeat(100_000);
        assert!(records(&text).count() >= 1);
    }

    proptest! {
        /// Everything that the csv crate writes is read back, at the lines where it was written.
        #[test]
        fn what_was_written_is_read_back(
            rows in proptest::collection::vec(proptest::collection::vec("[a#,;\" \n\r]{0,6}", 3), 0..8),
            blank in "(\n| \n|#x,\"\n){0,3}",
        ) {
            let (mut text, mut expected) = (String::new(), Vec::new());
            for row in rows {
                let row: Vec<String> = std::iter::once("x".to_owned()).chain(row).collect();
                let mut writer = csv::Writer::from_writer(Vec::new());
                writer.write_record(&row).unwrap();
                text.push_str(&blank);
                expected.push((1 + text.matches('\n').count(), row));
                text.push_str(&String::from_utf8(writer.into_inner().unwrap()).unwrap());
            }
            let read: Vec<_> = records(&text).map(|record| (record.line, fields(record.text).unwrap())).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
