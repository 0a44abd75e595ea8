//! Parses YAML into scalars with their original text and line.
//!
//! Typed readers turn `1.20` into the number 1.2, which would lose a tag, so this uses the parser's events.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle};

/// One node of a document.
#[derive(Debug)]
pub(super) struct YamlNode {
    /// The line it begins at, from 1.
    pub(super) line: usize,
    pub(super) content: YamlContent,
    /// Levels below and including this one.
    depth: usize,
}

#[derive(Debug)]
pub(super) enum YamlContent {
    /// Empty, `~` or `null`.
    Null,
    Scalar(String),
    List(Vec<Rc<YamlNode>>),
    /// In the order of the file; entries of merge keys (`<<`) come last.
    Map(Vec<(String, Rc<YamlNode>)>),
}

/// The problem with a document.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct YamlError {
    pub(super) line: usize,
    pub(super) message: String,
}

/// The largest nesting, with aliases expanded. The parser stops at 255 of each kind of brackets, but chains of aliases
/// can be longer, and the tree is walked recursively.
const MOST_LEVELS: usize = 600;
/// The largest number of entries that merge keys can add to a document: far more than real files have.
const MOST_MERGED: usize = 100_000;

impl YamlNode {
    pub(super) fn entries(&self) -> &[(String, Rc<YamlNode>)] {
        match &self.content {
            YamlContent::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(super) fn items(&self) -> &[Rc<YamlNode>] {
        match &self.content {
            YamlContent::List(items) => items,
            _ => &[],
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Rc<YamlNode>> {
        self.entries().iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.content, YamlContent::Null)
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.content, YamlContent::List(_))
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.content, YamlContent::Map(_))
    }

    /// The text of a scalar that is not empty.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.content {
            YamlContent::Scalar(text) if !text.trim().is_empty() => Some(text.trim()),
            _ => None,
        }
    }
}

/// The documents of a file. Each is parsed on its own: a broken one does not affect the others.
pub(super) fn documents(text: &str) -> impl Iterator<Item = Result<Vec<Rc<YamlNode>>, YamlError>> {
    pieces(text).into_iter().map(|(before, piece)| {
        YamlBuilder { before, ..YamlBuilder::default() }.build(piece).map_err(|mut broken| {
            if piece.contains("{{") {
                broken.message += "; this looks like a template: scan what it renders (`helm template`)";
            }
            broken
        })
    })
}

/// The text between document markers (YAML 1.2.2, 9.1.4: `---` at the start of a line always is one), each with the
/// number of lines before it.
fn pieces(text: &str) -> Vec<(usize, &str)> {
    let mut pieces = Vec::new();
    let (mut start, mut before) = (0, 0);
    let mut at = 0;
    for (line, text_line) in text.split_inclusive('\n').enumerate() {
        let marker = text_line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marker && !is_preamble(&text[start..at]) {
            pieces.push((before, &text[start..at]));
            (start, before) = (at, line);
        }
        at += text_line.len();
    }
    pieces.push((before, &text[start..]));
    pieces
}

/// Whether these are only comments and directives, which belong to the document after the marker.
fn is_preamble(text: &str) -> bool {
    text.lines().all(|line| line.trim().is_empty() || line.starts_with(['#', '%']))
}

fn broken(line: usize, message: impl Into<String>) -> YamlError {
    YamlError { line, message: message.into() }
}

/// A collection that is being built.
enum OpenCollection {
    List { line: usize, anchor: usize, items: Vec<Rc<YamlNode>> },
    Map { line: usize, anchor: usize, entries: Vec<(String, Rc<YamlNode>)>, key: Option<String>, merges: Vec<Rc<YamlNode>> },
}

#[derive(Default)]
struct YamlBuilder {
    /// Lines of the file before this text.
    before: usize,
    open: Vec<OpenCollection>,
    anchors: HashMap<usize, Rc<YamlNode>>,
    merged: usize,
    roots: Vec<Rc<YamlNode>>,
}

impl YamlBuilder {
    fn build(mut self, text: &str) -> Result<Vec<Rc<YamlNode>>, YamlError> {
        for next in Parser::new_from_str(text) {
            let (event, span) = next.map_err(|error| broken(self.before + error.marker().line().max(1), error.info()))?;
            self.event(event, self.before + span.start.line())?;
        }
        Ok(self.roots)
    }

    /// `line` is the line in the file, also below.
    fn event(&mut self, event: Event<'_>, line: usize) -> Result<(), YamlError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let null = style == ScalarStyle::Plain && tag.is_none() && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let content = if null { YamlContent::Null } else { YamlContent::Scalar(text.into_owned()) };
                self.finished(line, anchor, content)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open.push(OpenCollection::List { line, anchor, items: Vec::new() });
                Ok(())
            }
            Event::MappingStart(_, anchor, _) => {
                self.open.push(OpenCollection::Map { line, anchor, entries: Vec::new(), key: None, merges: Vec::new() });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => self.place(line, node),
                None => Err(broken(line, "an alias refers to what it stands in")),
            },
            Event::DocumentStart(..) => {
                self.anchors.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn close(&mut self) -> Result<(), YamlError> {
        match self.open.pop() {
            Some(OpenCollection::List { line, anchor, items }) => self.finished(line, anchor, YamlContent::List(items)),
            Some(OpenCollection::Map { line, anchor, mut entries, merges, .. }) => {
                self.merge(&mut entries, &merges, line)?;
                self.finished(line, anchor, YamlContent::Map(entries))
            }
            None => Ok(()),
        }
    }

    /// Adds the entries of `<<` whose keys the mapping itself and earlier merges do not have (the merge key type of
    /// YAML 1.1).
    fn merge(&mut self, entries: &mut Vec<(String, Rc<YamlNode>)>, merges: &[Rc<YamlNode>], line: usize) -> Result<(), YamlError> {
        if merges.is_empty() {
            return Ok(());
        }
        let mut known: HashSet<String> = entries.iter().map(|(key, _)| key.clone()).collect();
        for (key, node) in merges.iter().flat_map(|merge| merge.entries()) {
            self.merged += 1;
            if self.merged > MOST_MERGED {
                return Err(broken(line, format!("merge keys bring more than {MOST_MERGED} entries")));
            }
            if known.insert(key.clone()) {
                entries.push((key.clone(), Rc::clone(node)));
            }
        }
        Ok(())
    }

    fn finished(&mut self, line: usize, anchor: usize, content: YamlContent) -> Result<(), YamlError> {
        let below = match &content {
            YamlContent::List(items) => items.iter().map(|node| node.depth).max(),
            YamlContent::Map(entries) => entries.iter().map(|(_, node)| node.depth).max(),
            YamlContent::Null | YamlContent::Scalar(_) => None,
        };
        let depth = below.unwrap_or(0) + 1;
        if depth > MOST_LEVELS {
            return Err(broken(line, format!("it is nested more than {MOST_LEVELS} levels deep")));
        }
        let node = Rc::new(YamlNode { line, content, depth });
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.place(line, node)
    }

    /// Adds a node to the collection being built, or as the root.
    fn place(&mut self, line: usize, node: Rc<YamlNode>) -> Result<(), YamlError> {
        match self.open.last_mut() {
            None => self.roots.push(node),
            Some(OpenCollection::List { items, .. }) => items.push(node),
            Some(OpenCollection::Map { entries, key, merges, .. }) => match key.take() {
                Some(merge) if merge == "<<" => match &node.content {
                    YamlContent::List(items) => merges.extend(items.iter().cloned()),
                    _ => merges.push(node),
                },
                Some(key) => entries.push((key, node)),
                None => match &node.content {
                    YamlContent::Scalar(text) => *key = Some(text.clone()),
                    YamlContent::Null => *key = Some(String::new()),
                    YamlContent::List(_) | YamlContent::Map(_) => return Err(broken(line, "a collection stands where a key belongs")),
                },
            },
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(node: &YamlNode) -> String {
        match &node.content {
            YamlContent::Null => "null".to_owned(),
            YamlContent::Scalar(text) => format!("{text}@{}", node.line),
            YamlContent::List(items) => format!("[{}]", items.iter().map(|item| shown(item)).collect::<Vec<_>>().join(" ")),
            YamlContent::Map(entries) => {
                format!("{{{}}}", entries.iter().map(|(key, node)| format!("{key}: {}", shown(node))).collect::<Vec<_>>().join(" "))
            }
        }
    }

    fn read(text: &str) -> Vec<String> {
        documents(text)
            .flat_map(|document| match document {
                Ok(roots) => roots.iter().map(|root| shown(root)).collect(),
                Err(broken) => vec![format!("{}: {}", broken.line, broken.message)],
            })
            .collect()
    }

    #[test]
    fn scalars_keep_their_text_and_line() {
        assert_eq!(read("a: 1.20\nb:\n- 'x'\n- >-\n  y\n  z\n- ~\n"), ["{a: 1.20@1 b: [x@3 y z@5 null]}"]);
    }

    #[test]
    fn documents_are_counted_from_the_top_and_stand_for_themselves() {
        let text = "# one\n%YAML 1.2\n---\na: 1\n---\nb: [\n--- \nc: |\n  ---\n  text\n...\n---\n# nothing\n---\nd: 4";
        let read = read(text);
        assert_eq!(read, ["{a: 1@4}", "6: unclosed bracket '['", "{c: ---\ntext\n@9}", "null", "{d: 4@15}"]);
    }

    #[test]
    fn aliases_and_merge_keys_are_written_out() {
        assert_eq!(
            read("base: &base {image: a, x: 1}\none:\n  <<: *base\n  x: 2\ntwo: {<<: [*base, {y: 3}]}\nthree: *base\n"),
            ["{base: {image: a@1 x: 1@1} one: {x: 2@4 image: a@1} two: {image: a@1 x: 1@1 y: 3@5} three: {image: a@1 x: 1@1}}"]
        );
        assert_eq!(read("a: &a\n  b: *a\n"), ["2: an alias refers to what it stands in"]);
    }

    #[test]
    fn templates_are_told_from_mistakes() {
        assert_eq!(
            read("image: {{ .Values.image }}\n"),
            ["1: a collection stands where a key belongs; this looks like a template: scan what it renders (`helm template`)"]
        );
    }

    #[test]
    fn hostile_nesting_ends_in_an_error() {
        let chain: String = (1..2000).map(|n| format!("a{n}: &a{n} {{x: *a{}}}\n", n - 1)).collect();
        let read_chain = read(&format!("a0: &a0 {{x: 1}}\n{chain}"));
        assert!(read_chain[0].contains("nested more than 600 levels deep"), "{read_chain:?}");
        assert!(read(&"[".repeat(100_000)).len() == 1);
        let merges: String = (1..60).map(|n| format!("m{n}: &m{n} {{<<: [*m{0}, *m{0}], k{n}: 1}}\n", n - 1)).collect();
        assert_eq!(read(&format!("m0: &m0 {{k0: 1}}\n{merges}")).len(), 1);
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "([-:{}\\[\\]&*<!|>#%'\" \n]|[a-c]|---\n|\\PC){0,80}") {
            let _ = read(&text);
        }
    }
}
