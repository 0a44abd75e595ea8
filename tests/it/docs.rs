//! README and docs: what they show is run as it is written, in a folder prepared as they say, with fakes behind the registries' names.
//! (That all other commands parse is a unit test of the command line.)

use std::path::Path;

use crate::support::corpus::simple;
use crate::support::fake::Fake;
use crate::support::program::Program;

/// The longest line of README: it is read in terminals and mails too.
const WIDTH: usize = 120;

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The code blocks of `text` in this language.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    let blocks = text.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    blocks.filter(|(kind, _)| kind.trim() == language).map(|(_, body)| body).collect()
}

#[test]
fn readme_fits_a_terminal_and_says_which_rust_it_needs() {
    let readme = readme();
    let long: Vec<_> = readme.lines().enumerate().filter(|(_, line)| line.chars().count() > WIDTH).map(|(at, _)| at + 1).collect();
    assert_eq!(long, [0; 0], "these lines are longer than {WIDTH}");
    let rust = format!("Rust {}", env!("CARGO_PKG_RUST_VERSION"));
    assert!(readme.contains(&rust), "README does not say that it needs {rust}");
}

#[test]
fn readmes_first_example_is_checked_examined_planned_and_run_as_it_is_written() {
    let readme = readme();
    let (hub, target, mut program) = (Fake::start(), Fake::start(), Program::new());
    for (seed, (repository, tag)) in (1..).zip([
        ("alpine", "3.20"),
        ("alpine", "3.21"),
        ("nginx", "1.25.0"),
        ("nginx", "1.27.1"),
        ("nginx", "1.27.1-perl"),
        ("redis", "7.4"),
    ]) {
        simple(&hub, &format!("library/{repository}"), tag, seed);
    }
    let endpoints = [("docker.io", &hub), ("registry.example.com", &target)];
    let endpoints = endpoints.map(|(host, fake)| format!("[registry.\"{host}\"]\nendpoint = \"{}\"\n", fake.url())).concat();
    program.write("larder.toml", format!("{}\n{endpoints}", blocks(&readme, "toml")[0]));
    std::fs::create_dir(program.path("lists")).unwrap();
    program.write("lists/base.csv", blocks(&readme, "csv")[0]);
    program.set("HUB_USER", "me");
    program.set("HUB_TOKEN", "secret");

    let block = blocks(&readme, "sh").into_iter().find(|block| block.contains("larder doctor")).unwrap();
    let mut ran = 0;
    for line in block.lines() {
        let command = line.split(" # ").next().unwrap().split("  #").next().unwrap();
        let words: Vec<&str> = command.split_whitespace().collect();
        assert_eq!(words[0], "larder", "{line}");
        program.run(&words[1..]).exits(0);
        ran += 1;
    }
    assert!(ran >= 5, "{block}");
    assert_eq!(target.tags("mirror/library/nginx"), ["1.25.0", "1.27.1"]);
    assert_eq!((target.tags("mirror/library/alpine").len(), target.tags("mirror/library/redis")), (2, vec!["7.4".to_owned()]));
}

#[test]
fn every_configuration_in_readme_and_docs_is_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut seen = 0;
    for file in docs.chain([root.join("README.md")]).filter(|path| path.extension().is_some_and(|ending| ending == "md")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for block in blocks(&text, "toml").into_iter().filter(|block| ["[[rule]]", "[target]"].iter().any(|table| block.contains(table))) {
            let program = Program::new();
            let version = if block.contains("version = 1") { "" } else { "version = 1\n" };
            program.write("larder.toml", format!("{version}{block}"));
            // Some blocks are parts: the credential set that they name stands elsewhere.
            let shown = program.run(&["config", "show"]);
            let wrong: Vec<_> = shown.stderr.lines().filter(|line| !line.contains("there is no credential set")).collect();
            assert_eq!(wrong, [""; 0], "{}\n{block}", file.display());
            seen += 1;
        }
    }
    assert!(seen >= 5, "{seen}");
}

#[test]
fn every_source_file_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = regex::Regex::new(r"\b(?:src|tests)/[\w./-]*\.rs").unwrap();
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut gone = vec![];
    for document in docs.chain(["README.md", "CONTRIBUTING.md"].map(|name| root.join(name))) {
        let text = std::fs::read_to_string(&document).unwrap();
        let missing = path.find_iter(&text).map(|named| named.as_str()).filter(|named| !root.join(named).exists());
        gone.extend(missing.map(|named| format!("{}: {named}", document.display())));
    }
    assert!(gone.is_empty(), "these files do not exist: {gone:#?}");
}
