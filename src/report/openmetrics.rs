//! The text format of metrics, as far as larder writes it: gauges and counters (OpenMetrics 1.0, "Text format").
//!
//! Prometheus' older text format differs in nothing that matters here: what it does not know (`# EOF`, a counter's family name without
//! `_total`) are comments to it. So one file serves scrapers and node_exporter's textfile collector alike.

use std::fmt::{Display, Write};

/// What larder's own metrics begin with.
const PREFIX: &str = "larder_";

/// The media type of the whole (OpenMetrics 1.0, "Protocol negotiation").
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a metric's values mean over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricKind {
    /// May go up and down.
    Gauge,
    /// Only grows while the program runs; its samples end in `_total`.
    Counter,
}

/// A text of metrics that is being written, family by family.
#[derive(Debug, Default)]
pub(crate) struct Exposition(String);

impl Exposition {
    /// Begins the family `larder_<name>`, and writes its samples: labels and value. One without samples is left out.
    pub(crate) fn family<'v, V: Display>(
        &mut self,
        name: &str,
        kind: MetricKind,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<(&'v str, &'v str)>, V)>,
    ) {
        let (word, suffix) = match kind {
            MetricKind::Gauge => ("gauge", ""),
            MetricKind::Counter => ("counter", "_total"),
        };
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        // Writing to a string does not fail.
        let _ = write!(self.0, "# TYPE {PREFIX}{name} {word}\n# HELP {PREFIX}{name} {}\n", escaped(help));
        for (labels, value) in samples {
            let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(self.0, "{PREFIX}{name}{suffix}{labels} {value}");
        }
    }

    /// A family of one sample without labels.
    pub(crate) fn single(&mut self, name: &str, kind: MetricKind, help: &str, value: impl Display) {
        self.family(name, kind, help, [(vec![], value)]);
    }

    /// The whole text.
    pub(crate) fn finish(mut self) -> String {
        self.0.push_str("# EOF\n");
        self.0
    }
}

/// The value of the sample `larder_<name>` without labels in a text of metrics, whoever wrote it.
pub(crate) fn value_of(text: &str, name: &str) -> Option<f64> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(PREFIX)?.strip_prefix(name)?.strip_prefix(' '));
    // A time stamp may follow the value.
    lines.filter_map(|rest| rest.split(' ').next()?.parse().ok()).find(|value: &f64| value.is_finite())
}

/// OpenMetrics 1.0, `escaped-string`. What else could break a line is made visible.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.extend(c.escape_unicode().flat_map(|c| if c == '\\' { vec!['\\', '\\'] } else { vec![c] })),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod strict {
    //! A reader that takes nothing but OpenMetrics 1.0, to hold our writer to it.

    use std::collections::BTreeMap;

    /// Every sample by its name and labels, as written. The error names the line.
    pub(crate) fn parse(text: &str) -> Result<BTreeMap<String, f64>, String> {
        let body = text.strip_suffix("# EOF\n").ok_or("it does not end in `# EOF` and a line feed")?;
        let (mut samples, mut families) = (BTreeMap::new(), vec![]);
        // The family at hand, its type, whether it has its help.
        let mut family: Option<(String, String, bool)> = None;
        for (number, line) in body.split_terminator('\n').enumerate() {
            let wrong = |why: &str| Err(format!("line {}: {why}: {line}", number + 1));
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let Some((name, kind)) = rest.split_once(' ') else { return wrong("no type") };
                if !is_name(name) || families.iter().any(|known| known == name) {
                    return wrong("a bad name, or a family twice");
                }
                if !matches!(kind, "gauge" | "counter") {
                    return wrong("an unknown type");
                }
                if kind == "counter" && name.ends_with("_total") {
                    return wrong("a counter's family has no _total");
                }
                families.push(name.to_owned());
                family = Some((name.to_owned(), kind.to_owned(), false));
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                match (&mut family, rest.split_once(' ')) {
                    (Some((name, _, helped)), Some((of, help))) if name == of && !*helped && unescaped(help).is_some() => *helped = true,
                    _ => return wrong("help of another family, twice, or badly escaped"),
                }
            } else {
                let Some((name, kind, _)) = &family else { return wrong("a sample without a family") };
                let expected = if kind == "counter" { format!("{name}_total") } else { name.clone() };
                let Some((labels, value)) = line.strip_prefix(&expected).and_then(split) else { return wrong("no sample of its family") };
                let Some(value) = number_of(value) else { return wrong("no number") };
                if kind == "counter" && value < 0.0 {
                    return wrong("a counter below zero");
                }
                if samples.insert(format!("{expected}{labels}"), value).is_some() {
                    return wrong("a sample twice");
                }
            }
        }
        Ok(samples)
    }

    fn is_name(name: &str) -> bool {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))
    }

    /// `{labels} value` or ` value`: the labels with their braces, checked, and the value.
    fn split(rest: &str) -> Option<(&str, &str)> {
        let Some(inner) = rest.strip_prefix('{') else { return rest.strip_prefix(' ').map(|value| ("", value)) };
        let mut left = inner;
        loop {
            let (name, after) = left.split_once("=\"")?;
            if !is_name(name) || name.contains(':') {
                return None;
            }
            let mut escape = false;
            let end = after.char_indices().find(|(_, c)| {
                let ends = *c == '"' && !escape;
                escape = *c == '\\' && !escape;
                ends
            })?;
            unescaped(after.get(..end.0)?)?;
            left = after.get(end.0 + 1..)?;
            match left.strip_prefix(',') {
                Some(more) => left = more,
                None => break,
            }
        }
        let value = left.strip_prefix("} ")?;
        Some((rest.get(..rest.len() - value.len() - 1)?, value))
    }

    fn unescaped(text: &str) -> Option<String> {
        let mut out = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => out.push(match chars.next()? {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    _ => return None,
                }),
                '"' => return None,
                c if c.is_control() => return None,
                c => out.push(c),
            }
        }
        Some(out)
    }

    /// A plain decimal number: what OpenMetrics allows beside it (NaN, infinities, hexadecimals of Rust's) is none of ours.
    fn number_of(text: &str) -> Option<f64> {
        let plain = text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | 'e'));
        text.parse().ok().filter(|value: &f64| plain && value.is_finite())
    }

    #[test]
    fn it_is_strict() {
        let good = "# TYPE a gauge\n# HELP a Text with \\n.\na{b=\"c \\\" \\\\ d\",e=\"\"} 1\na 2.5\n# TYPE c counter\nc_total 3\n# EOF\n";
        let samples = parse(good).unwrap();
        assert_eq!((samples["a"], samples["a{b=\"c \\\" \\\\ d\",e=\"\"}"], samples["c_total"]), (2.5, 1.0, 3.0));
        for bad in [
            "",
            "a 1\n# EOF\n",
            "# TYPE a gauge\na 1\n",
            "# TYPE a gauge\na 1\n# EOF\n\n",
            "# TYPE a gauge\na 1\na 1\n# EOF\n",
            "# TYPE a gauge\na 1\n# TYPE a gauge\n# EOF\n",
            "# TYPE a gauge\na  1\n# EOF\n",
            "# TYPE a gauge\na 1 \n# EOF\n",
            "# TYPE a gauge\na NaN\n# EOF\n",
            "# TYPE a gauge\na{b=\"c} 1\n# EOF\n",
            "# TYPE a gauge\na{b=\"\\x\"} 1\n# EOF\n",
            "# TYPE a gauge\na{b=\"c\",} 1\n# EOF\n",
            "# TYPE a gauge\nb 1\n# EOF\n",
            "# TYPE a counter\na 1\n# EOF\n",
            "# TYPE a_total counter\na_total_total 1\n# EOF\n",
            "# TYPE a counter\na_total -1\n# EOF\n",
            "# TYPE a gauge\n\na 1\n# EOF\n",
            "# TYPE a gauge\n# HELP b x\na 1\n# EOF\n",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn families_are_written_and_read_back() {
        let mut text = Exposition::default();
        text.family("images", MetricKind::Gauge, "Images.", [(vec![("status", "copied")], 3), (vec![("status", "failed")], 0)]);
        text.family("nothing", MetricKind::Gauge, "Left out.", Vec::<(Vec<(&str, &str)>, u64)>::new());
        text.single("requests", MetricKind::Counter, "Requests.", 7);
        text.single("time_seconds", MetricKind::Gauge, "Seconds.", 1.5);
        let text = text.finish();
        insta::assert_snapshot!(text, @r#"
        # TYPE larder_images gauge
        # HELP larder_images Images.
        larder_images{status="copied"} 3
        larder_images{status="failed"} 0
        # TYPE larder_requests counter
        # HELP larder_requests Requests.
        larder_requests_total 7
        # TYPE larder_time_seconds gauge
        # HELP larder_time_seconds Seconds.
        larder_time_seconds 1.5
        # EOF
        "#);
        assert_eq!(strict::parse(&text).unwrap().len(), 4);
        assert_eq!((value_of(&text, "time_seconds"), value_of(&text, "time"), value_of(&text, "images")), (Some(1.5), None, None));
    }

    proptest! {
        #[test]
        fn whatever_stands_in_a_label_the_text_stays_valid(label in "\\PC{0,20}|[\\x00-\\x1f\"\\\\]{0,10}", value in any::<u64>()) {
            let mut text = Exposition::default();
            text.family("a", MetricKind::Gauge, &label, [(vec![("b", label.as_str())], value)]);
            prop_assert_eq!(strict::parse(&text.finish()).map(|samples| samples.len()), Ok(1));
        }

        #[test]
        fn a_file_of_anything_is_read_without_panic(text in "(larder_a( |\\{)?\\PC{0,10}\n?){0,4}") {
            value_of(&text, "a");
        }
    }
}
