//! Dockerfiles: the images of `FROM`, `COPY --from` and `RUN --mount`.
//!
//! Not included: the frontend of a `# syntax=` line, and stages that the command line replaces (`--build-context`).

use std::collections::{HashMap, HashSet};

use super::{Finder, variables};

/// Whether the first instruction of the text is one that can begin a Dockerfile.
pub(super) fn is_one(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    first.and_then(|line| line.split_once(char::is_whitespace)).is_some_and(|(word, rest)| {
        // `from: x` and `arg: x` are YAML.
        (word.eq_ignore_ascii_case("FROM") || word.eq_ignore_ascii_case("ARG")) && !rest.trim_start().starts_with(':')
    })
}

pub(super) fn scan(text: &str, finder: &mut Finder) {
    let mut stages = BuildStages::default();
    for instruction in instructions(text) {
        let (word, rest) = instruction.text.split_once(char::is_whitespace).unwrap_or((&instruction.text, ""));
        match word.to_ascii_uppercase().as_str() {
            "ARG" => stages.arguments(rest),
            "FROM" => stages.from(instruction.line, rest, finder),
            "COPY" | "ADD" => stages.copy(instruction.line, rest, finder),
            "RUN" => stages.mounts(instruction.line, rest, finder),
            _ => {}
        }
    }
}

/// The state while reading a file.
#[derive(Default)]
struct BuildStages {
    /// `ARG`s before the first `FROM`: the only ones that a `FROM` can use.
    arguments: HashMap<String, Option<String>>,
    /// Names of stages, in lower case: they are not images.
    names: HashSet<String>,
    begun: bool,
}

impl BuildStages {
    fn arguments(&mut self, rest: &str) {
        if self.begun {
            return;
        }
        for word in rest.split_whitespace() {
            let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(unquoted(value))));
            // A default may use earlier arguments. If it cannot be resolved, there is none.
            let value = value.and_then(|value| self.substitute(value).ok());
            self.arguments.insert(name.to_owned(), value);
        }
    }

    fn substitute(&self, text: &str) -> Result<String, String> {
        variables::substitute(text, &|name| self.arguments.get(name).cloned().flatten())
    }

    fn from(&mut self, line: usize, rest: &str, finder: &mut Finder) {
        self.begun = true;
        let mut words = rest.split_whitespace().skip_while(|word| word.starts_with("--"));
        match words.next() {
            Some(image) => self.image(line, unquoted(image), finder),
            None => finder.problem(line, "FROM names no image"),
        }
        if let (Some(word), Some(name)) = (words.next(), words.next())
            && word.eq_ignore_ascii_case("AS")
        {
            self.names.insert(name.to_ascii_lowercase());
        }
    }

    fn image(&self, line: usize, text: &str, finder: &mut Finder) {
        match self.substitute(text) {
            // `scratch` is the empty image, which is not in any registry.
            Ok(image) if image == "scratch" || self.names.contains(&image.to_ascii_lowercase()) => {}
            Ok(image) => finder.reference(line, &image),
            Err(why) => finder.problem(line, &why),
        }
    }

    fn copy(&self, line: usize, rest: &str, finder: &mut Finder) {
        let flags = rest.split_whitespace().take_while(|word| word.starts_with("--"));
        for image in flags.filter_map(|flag| flag.strip_prefix("--from=")) {
            self.other(line, image, finder);
        }
    }

    fn mounts(&self, line: usize, rest: &str, finder: &mut Finder) {
        let flags = rest.split_whitespace().take_while(|word| word.starts_with("--"));
        for mount in flags.filter_map(|flag| flag.strip_prefix("--mount=")) {
            for image in mount.split(',').filter_map(|part| part.strip_prefix("from=")) {
                self.other(line, image, finder);
            }
        }
    }

    /// An image, a stage, or the number of a stage.
    fn other(&self, line: usize, image: &str, finder: &mut Finder) {
        let image = unquoted(image);
        if !image.is_empty() && !image.chars().all(|c| c.is_ascii_digit()) {
            self.image(line, image, finder);
        }
    }
}

fn unquoted(text: &str) -> &str {
    let within = |quote: char| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    within('"').or_else(|| within('\'')).unwrap_or(text)
}

/// One instruction, with its continuation lines joined.
struct Instruction {
    /// The line where it begins.
    line: usize,
    text: String,
}

fn instructions(text: &str) -> Vec<Instruction> {
    let escape = escape(text);
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    let mut open: Option<Instruction> = None;
    while let Some((index, line)) = lines.next() {
        let trimmed = line.trim();
        // Comments and blank lines do not end a continued instruction.
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let (part, continued) = match trimmed.strip_suffix(escape) {
            Some(part) => (part, true),
            None => (trimmed, false),
        };
        let mut instruction = open.take().unwrap_or(Instruction { line: index + 1, text: String::new() });
        instruction.text.push_str(part);
        if continued {
            instruction.text.push(' ');
            open = Some(instruction);
            continue;
        }
        for end in here_documents(&instruction.text) {
            // A here-document that never ends takes the rest of the file, as in a build.
            let _ = lines.find(|(_, line)| if end.indented { line.trim_start_matches('\t') == end.word } else { *line == end.word });
        }
        found.push(instruction);
    }
    found.extend(open);
    found
}

/// The character that continues a line: a backslash, unless a directive at the top changes it.
fn escape(text: &str) -> char {
    let directives = text.lines().map_while(|line| line.trim().strip_prefix('#'));
    for (name, value) in directives.map_while(|line| line.split_once('=')) {
        if name.trim().eq_ignore_ascii_case("escape") && value.trim() == "`" {
            return '`';
        }
    }
    '\\'
}

/// The word that ends a here-document (`<<EOF`).
struct HereDocEnd {
    word: String,
    /// `<<-`: tabs before the word are ignored.
    indented: bool,
}

fn here_documents(instruction: &str) -> Vec<HereDocEnd> {
    let takes_some =
        ["RUN", "COPY", "ADD"].iter().any(|word| instruction.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word)));
    if !takes_some {
        return Vec::new();
    }
    let mut ends = Vec::new();
    for word in instruction.split_whitespace() {
        // `<<<` is a here-string; `3<<EOF` has a file descriptor.
        let Some((before, word)) = word.split_once("<<") else { continue };
        if word.starts_with('<') || !before.chars().all(|c| c.is_ascii_digit()) {
            continue;
        }
        let (word, indented) = word.strip_prefix('-').map_or((word, false), |word| (word, true));
        let word = word.trim_matches(['"', '\'']);
        let name: String = word.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if !name.is_empty() {
            ends.push(HereDocEnd { word: name, indented });
        }
    }
    ends
}
