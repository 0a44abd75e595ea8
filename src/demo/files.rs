//! The list and the configuration of the demo, as a user would write them.

/// The image list (CSV) for the demo's upstream at `upstream` (`127.0.0.1:5000`): all its images, with several tags in
/// a line, priorities, and one target that needs no rule.
pub fn list(upstream: &str) -> String {
    format!(
        "\
image,tags,target,priority
{upstream}/library/alpine,3.20;3.21;latest,,10
{upstream}/acme/api,1.4.0;1.4.1,,5
{upstream}/acme/worker:1.4.1,,,5
{upstream}/library/nginx:1.27,,edge/proxy:1.27,
{upstream}/library/redis:7,,,
{upstream}/charts/web:0.3.0,,,
"
    )
}

/// The `larder.toml` of the demo: copies the list at `lists` (a path relative to the file) from `upstream` into the
/// layout at `layout` (also relative) by two wildcard rules and a fixed one.
pub fn config(upstream: &str, lists: &str, layout: &str) -> String {
    let (lists, layout) = (quoted(lists), quoted(layout));
    format!(
        "\
version = 1
lists = [{lists}]

[target]
layout = {layout}

# Everything below library/ keeps its path.
[[rule]]
name = \"docker-library\"
source = \"{upstream}/library/*\"
target = \"library/*\"

# Everything of acme is kept below apps/.
[[rule]]
name = \"acme-services\"
source = \"{upstream}/acme/*\"
target = \"apps/*\"

# One repository, under another name.
[[rule]]
name = \"web-chart\"
source = \"{upstream}/charts/web\"
target = \"helm/web\"
"
    )
}

/// A path as a TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::demo::MemoryRegistry;
    use crate::name::{ImageName, check_tag};

    const UPSTREAM: &str = "127.0.0.1:5000";

    #[test]
    fn the_list_names_every_image_of_the_shelf_and_no_other() {
        let list = list(UPSTREAM);
        let mut reader = csv::Reader::from_reader(list.as_bytes());
        assert_eq!(reader.headers().unwrap(), ["image", "tags", "target", "priority"].as_slice());
        let mut named = BTreeSet::new();
        for row in reader.records() {
            let row = row.unwrap();
            let image = ImageName::parse(&row[0]).unwrap();
            assert_eq!(image.repository.host, UPSTREAM);
            let tags: Vec<String> =
                image.tag.clone().into_iter().chain(row[1].split(';').filter(|tag| !tag.is_empty()).map(str::to_owned)).collect();
            assert_eq!(image.tag.is_some(), row[1].is_empty(), "{row:?}");
            for tag in tags {
                check_tag(&tag).unwrap();
                assert!(named.insert((image.repository.path.clone(), tag)), "{row:?} is twice there");
            }
            assert!(row[3].is_empty() || row[3].parse::<i64>().is_ok());
        }
        assert_eq!(named, MemoryRegistry::demo_upstream().images().into_iter().collect());
    }

    #[test]
    fn the_configuration_is_toml_and_covers_the_list() {
        let text = config(UPSTREAM, "images.csv", r#"a "strange" \ folder"#);
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["lists"][0].as_str(), Some("images.csv"));
        assert_eq!(table["target"]["layout"].as_str(), Some(r#"a "strange" \ folder"#));
        let rules = table["rule"].as_array().unwrap();
        let sources: Vec<&str> = rules.iter().map(|rule| rule["source"].as_str().unwrap()).collect();
        for (repository, _) in MemoryRegistry::demo_upstream().images() {
            let image = format!("{UPSTREAM}/{repository}");
            let covers = |source: &&&str| **source == image || source.strip_suffix('*').is_some_and(|prefix| image.starts_with(prefix));
            assert_eq!(sources.iter().filter(covers).count(), 1, "{image}");
        }
        for rule in rules {
            let (source, target) = (rule["source"].as_str().unwrap(), rule["target"].as_str().unwrap());
            assert_eq!(source.ends_with("/*"), target.ends_with("/*"), "{source}");
        }
    }
}
