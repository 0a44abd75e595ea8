//! Where a credential set says its user name and password are: `"plain"`, `{ env }`, `{ file }`, `{ command }`.
//!
//! No error here repeats what was written: it may be a password in the wrong place.

use std::path::Path;

use toml::Value;

use super::credentials::ValueSource;

pub(super) fn username(value: &Value, folder: &Path) -> Result<ValueSource, String> {
    match value {
        Value::String(text) if text.is_empty() => Err("is empty".to_owned()),
        Value::String(text) => Ok(ValueSource::Plain(text.clone())),
        value => indirect(value, folder),
    }
}

pub(super) fn password(value: &Value, folder: &Path) -> Result<ValueSource, String> {
    match value {
        Value::String(_) => Err(format!("may not be written here: {INDIRECT}")),
        value => indirect(value, folder),
    }
}

const INDIRECT: &str = "use { env = \"NAME\" }, { file = \"PATH\" } or { command = [\"PROGRAM\", \"ARGUMENT\"] }";

fn indirect(value: &Value, folder: &Path) -> Result<ValueSource, String> {
    let Some(table) = value.as_table() else { return Err(format!("is not of a known form: {INDIRECT}")) };
    let mut entries = table.iter();
    let (Some((key, value)), None) = (entries.next(), entries.next()) else {
        return Err(format!("must have exactly one source: {INDIRECT}"));
    };
    match (key.as_str(), value) {
        ("env", Value::String(name)) if !name.is_empty() && !name.contains(['=', '\0']) => Ok(ValueSource::Env(name.clone())),
        ("file", Value::String(path)) if !path.is_empty() => Ok(ValueSource::File(folder.join(path))),
        ("command", Value::Array(words)) => command(words, folder),
        _ => Err(format!("is not of a known form: {INDIRECT}")),
    }
}

/// A program given by a relative path starts at the configuration's folder, as every path in it; a bare name is looked up in
/// `PATH`.
fn command(words: &[Value], folder: &Path) -> Result<ValueSource, String> {
    let words: Option<Vec<String>> = words.iter().map(|word| word.as_str().map(str::to_owned)).collect();
    match words {
        Some(mut words) if words.first().is_some_and(|program| !program.is_empty()) => {
            let program = words.remove(0);
            let program = if program.contains('/') { folder.join(program) } else { program.into() };
            Ok(ValueSource::Command { program, arguments: words })
        }
        _ => Err("command is a list of words, the program first: [\"vault\", \"read\", \"...\"]".to_owned()),
    }
}
