//! The lists that are shipped in `lists/` are lists.

use std::path::Path;

use larder::list::{Selection, parse_bytes};

#[test]
fn every_shipped_list_parses_without_an_error() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("lists");
    let mut names = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name == "README.md" {
            continue;
        }
        let parsed = parse_bytes(&name, &std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(parsed.errors, [], "{name}");
        assert!(!parsed.entries.is_empty(), "{name}");
        for entry in &parsed.entries {
            let tag = match &entry.selection {
                Selection::One { tag, .. } => tag.as_deref(),
                Selection::Terms(_) => None,
            };
            assert!(name == "base-images.csv" || tag.is_some_and(|tag| tag != "latest"), "{}: name a version", entry.origin);
        }
        names.push(name);
    }
    names.sort();
    assert_eq!(names, ["base-images.csv", "kubernetes-control-plane.txt", "monitoring.csv"]);
}
