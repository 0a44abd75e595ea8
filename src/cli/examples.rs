//! The examples of every `--help`. Tests parse them, and the commands of README and docs.

use clap::Command;

/// By the path of a command: its examples.
const EXAMPLES: &[(&[&str], &str)] = &[
    (&[], "  larder demo\n  larder sync --image quay.io/prometheus/busybox:latest\n  larder sync lists/base.csv --report report.json"),
    (&["plan"], "  larder plan\n  larder plan lists/base.csv --explain\n  larder plan --lock images.lock --format json"),
    (
        &["sync"],
        "  larder sync\n  larder sync lists/base.csv --max-wait 6h --report report.json --failed failed.csv\n  \
         larder sync --image quay.io/prometheus/busybox:latest --to oci:store",
    ),
    (
        &["export"],
        "  larder export lists/base.csv --to /media/disk --volume-size 4GB\n  larder export --to /media/disk --base far.zst --dry-run\n  \
         larder export --repair january.bundle.json --volume 7 --to /media/disk",
    ),
    (
        &["import"],
        "  larder import /media/disk --to registry.local:5000\n  larder import january-0001.tar january-0002.tar --to oci:store\n  \
         larder import /media/disk --evidence evidence.csv",
    ),
    (
        &["inventory"],
        "  larder inventory --of registry.local:5000 -z > far.zst\n  larder inventory --of oci:store\n  larder inventory --list lists/base.csv",
    ),
    (&["verify"], "  larder verify store\n  larder verify /media/disk\n  larder verify registry.local:5000 --lock images.lock --deep"),
    (&["gc"], "  larder gc store --dry-run\n  larder gc store"),
    (&["serve"], "  larder serve store\n  larder serve store --listen 0.0.0.0:5000 --tls-cert server.pem --tls-key server-key.pem"),
    (&["limits"], "  larder limits\n  larder limits docker.io --format json"),
    (&["rules"], "  larder rules check\n  larder rules explain alpine:3.20\n  larder rules export --format containerd --dir hosts.d"),
    (&["list"], "  larder list scan manifests/ > images.txt\n  larder list check lists/base.csv"),
    (&["config"], "  larder config check\n  larder config show"),
    (&["rules", "check"], "  larder rules check\n  larder rules check --online"),
    (&["rules", "explain"], "  larder rules explain alpine:3.20\n  larder rules explain contoso.azurecr.io/library/alpine:3.20"),
    (
        &["rules", "import"],
        "  larder rules import rules.json sets.json > larder.toml\n  larder rules import --to harbor.example.com projects.json registries.json",
    ),
    (&["rules", "export"], "  larder rules export --format containerd --dir hosts.d\n  larder rules export --format az"),
    (
        &["list", "scan"],
        "  larder list scan manifests/ > images.txt\n  helm template my-chart | larder list scan -\n  larder list scan --format csv skopeo.yaml",
    ),
    (&["list", "check"], "  larder list check\n  larder list check lists/base.csv --unmatched mirror"),
    (&["config", "check"], "  larder config check\n  larder config check --online\n  larder config check -c /etc/larder/larder.toml"),
    (&["config", "show"], "  larder config show\n  larder config show -c /etc/larder/larder.toml"),
    (&["doctor"], "  larder doctor\n  larder doctor -c /etc/larder/larder.toml --state /var/lib/larder"),
    (&["demo"], "  larder demo\n  larder demo --dir /tmp/larder-demo"),
    (&["completions"], "  larder completions bash > /etc/bash_completion.d/larder\n  larder completions zsh > ~/.zfunc/_larder"),
    (&["man"], "  larder man > larder.1\n  larder man | man -l -"),
];

/// Adds the examples below the help of each command.
pub(super) fn with_examples(command: Command) -> Command {
    EXAMPLES.iter().fold(command, |command, (path, text)| at(command, path, text))
}

fn at(command: Command, path: &[&str], text: &str) -> Command {
    match path {
        [] => {
            let after = command.get_after_help().map(|after| format!("\n\n{after}")).unwrap_or_default();
            command.after_help(format!("Examples:\n{text}{after}"))
        }
        [first, rest @ ..] => command.mut_subcommand(*first, |below| at(below, rest, text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command line of larder in `text`, without pipes, redirections and comments.
    fn commands(text: &str) -> Vec<Vec<String>> {
        let text = text.replace("\\\n", " ");
        let lines = text.lines().filter_map(|line| {
            let line = line.trim().trim_start_matches("$ ");
            let line = line.split(" | ").find(|part| part.starts_with("larder "))?;
            let line = line.split(" > ").next()?.split(" # ").next()?.split("  #").next()?;
            Some(line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        });
        lines.collect()
    }

    fn parse(command: &[String]) -> Result<(), String> {
        let parsed = crate::cli::command_line::command().try_get_matches_from(command);
        parsed.map(drop).map_err(|error| format!("{}: {error}", command.join(" ")))
    }

    #[test]
    fn every_command_has_two_or_three_examples_that_parse() {
        fn visit(command: &Command, path: &str) {
            let below: Vec<_> = command.get_subcommands().filter(|sub| sub.get_name() != "help").collect();
            let help = command.get_after_help().unwrap_or_else(|| panic!("{path}: no examples")).to_string();
            let examples = commands(&help);
            assert!((2..=3).contains(&examples.len()), "{path}: {examples:?}");
            for example in examples {
                assert!(example.join(" ").starts_with(path), "{path}: {example:?}");
                parse(&example).unwrap();
            }
            below.iter().for_each(|sub| visit(sub, &format!("{path} {}", sub.get_name())));
        }
        visit(&crate::cli::command_line::command(), "larder");
    }

    #[test]
    fn every_command_in_readme_and_docs_parses() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = vec![root.join("README.md"), root.join("lists/README.md"), root.join("CONTRIBUTING.md")];
        files.extend(std::fs::read_dir(root.join("docs")).unwrap().map(|file| file.unwrap().path()));
        let mut seen = 0;
        for file in files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "md")) {
            let text = std::fs::read_to_string(file).unwrap();
            for block in text.split("```").skip(1).step_by(2) {
                let (kind, body) = block.split_once('\n').unwrap_or((block, ""));
                let body = match kind.trim() {
                    "sh" | "console" | "" => body.to_owned(),
                    // Units and crontabs name the program by its path, or after a schedule.
                    "ini" => body.replace("ExecStart=/usr/local/bin/", ""),
                    _ => continue,
                };
                let body: String = body
                    .lines()
                    .map(|line| match line.find("*  larder ") {
                        Some(at) => format!("{}\n", &line[at + 3..]),
                        None => format!("{line}\n"),
                    })
                    .collect();
                for command in commands(&body) {
                    parse(&command).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
                    seen += 1;
                }
            }
        }
        assert!(seen >= 40, "only {seen} commands were found");
    }
}
