//! The order of the rooms: imports in `src/` run downwards, no files import each other in a circle, and no two public types
//! share a name. Read from the text of the source, so that the rules hold for whoever edits it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use regex::Regex;

/// The rooms from the top: a room may import those after it, never one before it. `docs/design.md` says what each is for.
const ROOMS: &[&str] = &[
    "fuzz", "cli", "demo", "sync", "serve", "bundle", "warm", "run", "copy", "registry", "layout", "lock", "config", "list", "rules",
    "select", "state", "report", "content", "limits", "store", "name", "folder", "input", "mutex", "internal", "error",
];

/// A `use` line: whether it is public, and its tree.
const USE: &str = r"(?m)^\s*(pub(?:\([a-z:]+\))?\s+)?use\s+([^;]+);";

/// A module's path below the crate: `["layout", "index"]`.
type Module = Vec<String>;

/// The source without tests: each module's file and text, and what its `pub use` lines re-export.
struct Source {
    files: BTreeMap<Module, (String, String)>,
    reexports: BTreeMap<Module, BTreeMap<String, Vec<String>>>,
}

impl Source {
    fn read() -> Source {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (mut texts, mut folders) = (BTreeMap::new(), vec![root.join("src")]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let file = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                    texts.insert(module_of(&file), (file, code(&std::fs::read_to_string(&path).unwrap())));
                }
            }
        }
        let declared = Regex::new(r"#\[cfg\(test\)\]\s*(?:pub(?:\([a-z]+\))? )?mod (\w+);").unwrap();
        let tests: Vec<Module> = texts
            .iter()
            .flat_map(|(module, (_, text))| declared.captures_iter(text).map(|found| below(module, &found[1])).collect::<Vec<_>>())
            .collect();
        texts.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
        let inline = Regex::new(r"(?s)#\[cfg\(test\)\]\s*(?:pub(?:\([a-z]+\))? )?(?:mod|use|fn|impl)\b[^;{]*(?:;|\{.*?\n\})").unwrap();
        for (_, text) in texts.values_mut() {
            *text = inline.replace_all(text, "").into_owned();
        }
        let mut source = Source { files: texts, reexports: BTreeMap::new() };
        for (module, (_, text)) in &source.files {
            let names = uses(text).filter(|(public, _)| *public).flat_map(|(_, tree)| expand(&tree));
            let names = names.filter_map(|path| Some((path.last()?.clone(), path))).collect();
            source.reexports.insert(module.clone(), names);
        }
        source
    }

    /// `path` as seen from `module`, from the crate's root; `None`: it is another crate's.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Vec<String>> {
        let (mut base, mut rest) = (module.clone(), path);
        match rest.first()?.as_str() {
            "crate" => return Some(rest[1..].to_vec()),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            child => {
                self.files.get(&below(module, child))?;
            }
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    /// The module that defines what `path` names: re-exports are followed.
    fn definition(&self, path: &[String], depth: usize) -> Option<Module> {
        let module = (0..=path.len()).rev().map(|end| path[..end].to_vec()).find(|module| self.files.contains_key(module))?;
        let reexported = path.get(module.len()).and_then(|name| self.reexports[&module].get(name)).filter(|_| depth < 6);
        match reexported.and_then(|target| self.absolute(&module, target)) {
            Some(target) => self.definition(&target, depth + 1),
            None => Some(module),
        }
    }

    /// The modules that each module imports, by `use` lines and by paths within its code.
    fn imports(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let inline = Regex::new(r"\b(?:crate|super|self)(?:::\w+)+").unwrap();
        let line = Regex::new(USE).unwrap();
        let of = |module: &Module, text: &str| {
            let lines = uses(text).filter(|(public, _)| !public).flat_map(|(_, tree)| expand(&tree));
            let rest = line.replace_all(text, "");
            let paths = inline.find_iter(&rest).map(|path| path.as_str().split("::").map(str::to_owned).collect());
            let reexports: BTreeSet<Vec<String>> = self.reexports[module].values().cloned().collect();
            let all = lines.chain(paths.filter(|path| !reexports.contains(path)));
            let all = all.filter_map(|path| self.definition(&self.absolute(module, &path)?, 0));
            all.filter(|imported| imported != module).collect()
        };
        self.files.iter().map(|(module, (_, text))| (module, of(module, text))).collect()
    }
}

fn below(module: &Module, name: &str) -> Module {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

/// `src/layout/mod.rs` is `layout`.
fn module_of(file: &str) -> Module {
    let mut parts: Module = file.trim_start_matches("src/").trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        // `main.rs` is a crate of its own, on top of the library.
        parts = if parts == ["main"] { parts } else { parts[..parts.len() - 1].to_vec() };
    }
    parts
}

/// Without comments. (A `//` inside a string is cut as well: no import stands behind one.)
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The `use` lines: whether each is public, and its tree.
fn uses(text: &str) -> impl Iterator<Item = (bool, String)> {
    let line = Regex::new(USE).unwrap();
    line.captures_iter(text).map(|found| (found.get(1).is_some(), found[2].to_owned())).collect::<Vec<_>>().into_iter()
}

/// The paths of a `use` tree: `a::{b, c::{d, e as f}}` is `a::b`, `a::c::d` and `a::c::e`.
fn expand(tree: &str) -> Vec<Vec<String>> {
    fn names(path: &str) -> Vec<String> {
        let path = path.split(" as ").next().unwrap_or_default();
        path.split("::").map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
    }
    let Some((prefix, rest)) = tree.split_once('{') else { return vec![names(tree)] };
    let inner = &rest[..rest.rfind('}').unwrap_or(rest.len())];
    let (mut parts, mut part, mut depth) = (vec![], String::new(), 0);
    for letter in inner.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if letter == ',' && depth == 0 {
            parts.push(std::mem::take(&mut part));
        } else {
            part.push(letter);
        }
    }
    parts.push(part);
    let parts = parts.iter().filter(|part| !part.trim().is_empty()).flat_map(|part| expand(part.trim()));
    parts.map(|path| names(prefix).into_iter().chain(path).collect()).collect()
}

#[test]
fn imports_run_downwards() {
    let source = Source::read();
    let order = |module: &Module| ROOMS.iter().position(|room| module.first().is_some_and(|first| first == room));
    let known: BTreeSet<&str> = source.files.keys().filter_map(|module| Some(module.first()?.as_str())).collect();
    let unknown: Vec<_> = known.iter().filter(|room| **room != "main" && !ROOMS.contains(room)).collect();
    assert!(unknown.is_empty(), "give these rooms a place in the order: {unknown:?}");
    let mut upward = vec![];
    for (module, imports) in source.imports() {
        for imported in &imports {
            if let (Some(from), Some(to)) = (order(module), order(imported))
                && to < from
            {
                upward.push(format!("{} imports {}", source.files[module].0, imported.join("::")));
            }
        }
    }
    assert!(upward.is_empty(), "imports run upwards:\n{}", upward.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let source = Source::read();
    let imports = source.imports();
    let reached = |start: &Module| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start.clone()]);
        while let Some(module) = open.pop() {
            let new = imports[&module].iter().filter(|imported| seen.insert((*imported).clone()));
            open.extend(new.cloned());
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = imports.keys().map(|module| (*module, reached(module))).collect();
    let mutual = |module: &Module, other: &Module| reached[module].contains(other) && reached[other].contains(module);
    let circles: Vec<String> = imports
        .iter()
        .filter_map(|(module, imported)| {
            let circle: Vec<String> = imported.iter().filter(|other| mutual(module, other)).map(|other| other.join("::")).collect();
            (!circle.is_empty()).then(|| format!("{} imports {}", source.files[*module].0, circle.join(", ")))
        })
        .collect();
    assert!(circles.is_empty(), "these files import each other in circles:\n{}", circles.join("\n"));
}

#[test]
fn no_two_public_types_share_a_name() {
    let source = Source::read();
    let defined = Regex::new(r"(?m)^\s*pub(?:\([a-z: ]+\))? (?:struct|enum|trait|union|type) (\w+)").unwrap();
    let mut types: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (file, text) in source.files.values() {
        for found in defined.captures_iter(text) {
            types.entry(found[1].to_owned()).or_default().push(file);
        }
    }
    types.retain(|_, files| files.len() > 1);
    assert!(types.is_empty(), "these names are defined more than once: {types:#?}");
}

#[test]
fn a_file_has_one_subject_and_fits_in_500_lines() {
    let source = Source::read();
    let long: Vec<String> = source
        .files
        .values()
        .map(|(file, _)| (file, std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > 500)
        .map(|(file, lines)| format!("{file}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "split these by meaning: {long:#?}");
}

#[test]
fn the_reader_of_use_lines_reads_them() {
    let paths = expand("crate::{Error, a::{self, b as c}, d}");
    let paths: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["crate::Error", "crate::a::self", "crate::a::b", "crate::d"]);
    assert_eq!(module_of("src/layout/mod.rs"), ["layout"]);
    assert_eq!(module_of("src/layout/index.rs"), ["layout", "index"]);
}
