//! The lists that are shipped in `lists/` are lists.

use std::path::Path;

use larder::config::TargetConfig;
use larder::list::{ImageSelection, parse_bytes};
use larder::rules::{RuleSet, Unmatched};
use larder::sync::check;

#[test]
fn every_shipped_list_parses_without_an_error() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("lists");
    let mut names = Vec::new();
    for file in std::fs::read_dir(&folder).unwrap() {
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
                ImageSelection::One { tag, .. } => tag.as_deref(),
                ImageSelection::Terms(_) => None,
            };
            let chooses = ["base-images.csv", "databases.csv"].contains(&name.as_str());
            assert!(chooses || tag.is_some_and(|tag| tag != "latest"), "{}: name a version", entry.origin);
        }
        names.push(name);
    }
    names.sort();
    assert_eq!(
        names,
        ["base-images.csv", "cluster-addons.txt", "databases.csv", "gitops.txt", "kubernetes-control-plane.txt", "monitoring.csv"]
    );
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    for name in &names {
        assert!(readme.contains(&format!("| [{name}]({name}) |")), "README.md does not name {name}");
    }
}

#[test]
fn every_shipped_list_resolves_beside_the_others() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("lists");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).filter(|path| !path.ends_with("README.md"));
    let lists: Vec<_> = files.map(|path| parse_bytes(path.to_str().unwrap(), &std::fs::read(&path).unwrap()).unwrap()).collect();
    for target in ["registry.example.com/mirror", "oci:store"] {
        let target = TargetConfig::parse(target).unwrap();
        let checked = check(lists.clone(), &RuleSet::default(), Unmatched::Mirror, &target);
        assert_eq!((checked.problems, checked.entries > 50), (vec![], true), "{target}");
    }
}
