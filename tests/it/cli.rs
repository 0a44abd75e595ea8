//! The command line: what each command prints where, and how it ends.

use crate::support::corpus::simple;
use crate::support::fake::Fake;
use crate::support::program::Program;
use insta::assert_snapshot;
use serde_json::Value;

#[test]
fn usage_errors_end_with_2() {
    let program = Program::new();
    program.write("columns.csv", "image,platfroms\nalpine,\n");
    program.write("list.txt", "alpine\n");
    program.write("utf16.txt", b"\xff\xfea\0l\0");
    let ends = |arguments: &[&str]| program.run(arguments).shown(&[]);
    assert_snapshot!(ends(&["sync", "columns.csv", "gone.txt", "utf16.txt"]), @"
    ---
    error: local: read list: columns.csv:1: unknown column `platfroms` (known: image, tags, exclude, platforms, target, priority)
    error: local: read list: gone.txt: No such file or directory (os error 2)
    error: local: read list: utf16.txt:1: this is UTF-16; save it as UTF-8
    exit 2
    ");
    assert_snapshot!(ends(&["sync"]), @"
    ---
    error: local: read lists: no image list is given (name a list, use --image REF, or set `lists` in larder.toml)
    exit 2
    ");
    assert_snapshot!(ends(&["-c", "gone.toml", "plan", "list.txt"]), @"
    ---
    error: local: read configuration: gone.toml: No such file or directory (os error 2)
    exit 2
    ");
    assert_snapshot!(ends(&["sync", "list.txt", "--to", "oci:"]), @"
    ---
    error: local: read --to: `oci:` needs a folder: `oci:store`
    exit 2
    ");
    assert_snapshot!(ends(&["sync", "list.txt", "--to", "https://registry.example/x"]), @"
    ---
    error: local: read --to: `https://registry.example/x`: write the registry without `https://`
    exit 2
    ");
    assert_snapshot!(ends(&["sync", "list.txt", "--report", "no/such/report.json"]), @"
    ---
    error: local: write report: no/such/report.json: its folder does not exist
    exit 2
    ");
    assert_snapshot!(ends(&["verify", "gone"]), @"
    ---
    error: local: verify: `gone`: no such path, and not a target: `gone` is not a registry (registry.example.com); a layout is written `oci:gone`
    exit 2
    ");
    assert_snapshot!(ends(&["verify", "registry.example"]), @"
    ---
    error: local: verify: no list or lock says which images the registry should hold (name a list with --list, a lock with --lock or an image with --image, or set `lists` in larder.toml)
    exit 2
    ");
    assert_snapshot!(ends(&["rules", "explain", "x@@y"]), @"
    ---
    error: local: read image: `@y` is not a digest (algorithm:hex)
    exit 2
    ");
    for arguments in [&["--frobnicate"][..], &["sync", "--concurrency", "0"], &["sync", "-q", "-v"], &["plan", "--format", "yaml"], &[]] {
        assert_eq!(program.run(arguments).code, 2, "{arguments:?}");
    }
    assert!(!program.path("larder-store").exists(), "nothing was attempted");
}

#[test]
fn a_line_that_does_not_parse_is_told_and_the_others_go_on() {
    let (upstream, program) = (Fake::start(), Program::new());
    simple(&upstream, "app", "v1", 1);
    program
        .write("mixed.txt", format!("# a comment\n{}  # fine\nNot OK\nquay.io/x/y:1:2\n\nalpine@sha256:123\n", upstream.image("app:v1")));
    program.write("mixed.csv", "image,tags,platforms,priority\nalpine:1,2,,\nalpine,/(/,,\nalpine,,linux,\nalpine,,,high\n\"alpine\n");
    let run = program.sync(&["mixed.txt", "mixed.csv"]).exits(1);
    assert_eq!((run.total("copied"), run.total("failed")), (1, 8));
    let failures: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_snapshot!(failures.join("\n"), @r#"
    error: mixed.txt:3: a text list has one image a line, and comments begin with `#`
    error: mixed.txt:4: `quay.io/x/y:1`: `:` may not stand in a repository name
    error: mixed.txt:6: `sha256:123` is not a sha256 digest: 64 lower-case hex digits are needed
    error: mixed.csv:2: `alpine:1` has a tag, and `tags` is not empty: only one of the two can choose
    error: mixed.csv:3: `/(/` is not a regex: unclosed group
    error: mixed.csv:4: `linux` is not a platform: write it like linux/amd64, linux/arm/v7 or windows/amd64:10.0.20348
    error: mixed.csv:5: priority `high` is not an integer
    error: mixed.csv:6: a field begins with `"` and never ends
    "#);
    let lines: Vec<(&str, u64)> = run.images().iter().map(|row| (row["file"].as_str().unwrap(), row["line"].as_u64().unwrap())).collect();
    assert_eq!(lines[..4], [("mixed.txt", 2), ("mixed.txt", 3), ("mixed.txt", 4), ("mixed.txt", 6)]);
    assert_eq!(lines[4..], [2, 3, 4, 5, 6].map(|line| ("mixed.csv", line)));
}

#[test]
fn without_a_configuration_every_image_goes_into_a_layout_under_its_own_name() {
    let (upstream, program) = (Fake::start(), Program::new());
    simple(&upstream, "team/app", "v1", 1);
    let run = program.sync(&["--image", &upstream.image("team/app:v1")]).exits(0);
    assert_eq!((run.report["target"].as_str(), run.images()[0]["rule"].clone()), (Some("oci:larder-store"), Value::Null));
    assert_eq!((&run.images()[0]["file"], &run.images()[0]["line"]), (&"--image".into(), &1.into()));
    let index: Value = serde_json::from_str(&program.read("larder-store/index.json")).unwrap();
    let names = &index["manifests"][0]["annotations"];
    assert_eq!(names["org.opencontainers.image.ref.name"], upstream.image("team/app:v1"));
    assert_eq!(names["io.containerd.image.name"], upstream.image("team/app:v1"));
    let text = run.shown(&[(&upstream, "UPSTREAM")]);
    insta::with_settings!({filters => vec![(r"in \d+\.\d s", "in TIME"), (r"\d+(\.\d)? k?B", "SIZE")]}, {
        assert_snapshot!(text, @"
        ---
        copied   UPSTREAM/team/app:v1 -> UPSTREAM/team/app:v1 (SIZE)
        1 image: 1 copied
        SIZE read, SIZE written in TIME; blobs: 3 copied, 0 mounted, 0 present
        pulls spent: UPSTREAM 1
        exit 0
        ");
    });
    let again = program.run(&["sync", "--image", &upstream.image("team/app:v1")]).exits(0);
    assert!(again.stderr.starts_with("current "), "{}", again.stderr);
}

#[test]
fn what_no_rule_covers_fails_or_is_mirrored() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    simple(&upstream, "other/app", "v1", 1);
    let covers = format!("[[rule]]\nname = \"near\"\nsource = \"{}/team/*\"\ntarget = \"team/*\"\n", upstream.addr());
    program.write("larder.toml", format!("version = 1\n[target]\nregistry = \"{}\"\n{covers}", target.addr()));
    let image = upstream.image("other/app:v1");
    let run = program.sync(&["--image", &image]).exits(1);
    let text = run.shown(&[(&upstream, "UPSTREAM"), (&target, "TARGET")]);
    assert_snapshot!(text.lines().nth(1).unwrap(), @r#"error: --image:1: local: resolve UPSTREAM/other/app:v1: no cache rule covers UPSTREAM/other/app; the nearest is "near" (UPSTREAM/team/* to team/*) (add a rule to larder.toml, or use --unmatched mirror)"#);
    assert_eq!(upstream.requests().len() + target.requests().len(), 0);
    program.sync(&["--image", &image, "--unmatched", "mirror"]).exits(0);
    let repository = format!("{}/other/app", upstream.addr().replace(':', "_"));
    assert_eq!(target.tags(&repository), ["v1"], "a registry's paths hold no colon");
    program.sync(&["--image", &image, "--unmatched", "mirror", "--to", "oci:store"]).exits(0);
    assert!(program.read("store/index.json").contains(&format!("{}/other/app:v1", upstream.addr())), "a layout's do");
}

#[test]
fn lists_come_from_files_standard_input_flags_and_the_configuration() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    for number in 0..5 {
        simple(&upstream, "app", &format!("v{number}"), number + 1);
    }
    let image = |number: u64| upstream.image(&format!("app:v{number}"));
    program.write("a.txt", format!("{}\n", image(0)));
    program.write("b.csv", format!("\u{feff}image,priority\r\n{},5\r\n", image(1)));
    let input = format!("image,tags\n{},v2\n", upstream.image("app"));
    let run = program.run_with_input(&["sync", "--report", "report.json", "a.txt", "b.csv", "-", "--image", &image(3)], &input).exits(0);
    let files: Vec<&str> = run.images().iter().map(|row| row["file"].as_str().unwrap()).collect();
    assert_eq!(files, ["a.txt", "b.csv", "-", "--image"]);
    assert_eq!(target.tags("m/app"), ["v0", "v1", "v2", "v3"]);

    // Paths in the configuration are relative to it.
    let text = program.read("larder.toml").replace("version = 1\n", "version = 1\nlists = [\"../a.txt\", \"own.txt\"]\n");
    program.write("etc/larder.toml", text);
    program.write("etc/own.txt", image(4));
    let run = program.sync(&["-c", "etc/larder.toml"]).exits(0);
    assert_eq!((run.total("images"), run.total("copied")), (2, 1));
    assert_eq!(program.sync(&["-c", "etc/larder.toml", "--image", &image(2)]).exits(0).total("images"), 1, "what is named replaces them");
}

#[test]
fn duplicates_are_one_entry_and_collisions_name_both_lines() {
    let (upstream, target, program) = (Fake::start(), Fake::start(), Program::new());
    program.configure(&target, &[&upstream]);
    for (number, name) in ["app:v1", "app:v2", "other:v1"].iter().enumerate() {
        let (repository, tag) = name.split_once(':').unwrap();
        simple(&upstream, repository, tag, number as u64 + 1);
    }
    let address = upstream.addr();
    let lines =
        ["app:v1,,,1", "app,v1;v2,,9", "other:v1,,shelf/x:1,", "app:v2,,shelf/x:1,", "app,v*,shelf/x,", "other:v1,,m/app:v9,", "app:v1,,,"];
    program.write("list.csv", format!("image,tags,target,priority\n{address}/{}\n", lines.join(&format!("\n{address}/"))));
    let run = program.sync(&["list.csv"]).exits(1);
    let text = run.shown(&[(&upstream, "UPSTREAM"), (&target, "TARGET")]);
    let mut errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error")).collect();
    errors.sort_unstable();
    assert_snapshot!(errors.join("\n"), @r#"
    error: list.csv:5: target name shelf/x:1 is already filled from UPSTREAM/other:v1 (list.csv:4) (remove one of the two lines, or give one of them another `target`)
    error: list.csv:7: local: resolve UPSTREAM/other:v1: UPSTREAM/other would become m/app, which rule "u0" owns and fills from UPSTREAM/app (give one of the two another target)
    "#);
    assert_eq!((run.total("images"), run.total("copied"), run.total("failed")), (7, 5, 2));
    assert_eq!(target.digest("shelf/x", "1"), upstream.digest("other", "v1"), "the first line has it");
    assert_eq!(
        (target.tags("m/app"), target.tags("shelf/x")),
        (vec!["v1".into(), "v2".into()], vec!["1".into(), "v1".into(), "v2".into()])
    );
}

#[test]
fn every_command_has_help() {
    let program = Program::new();
    let mut commands = vec![vec![]];
    let names = [
        "plan",
        "sync",
        "export",
        "import",
        "inventory",
        "verify",
        "gc",
        "serve",
        "limits",
        "rules",
        "list",
        "config",
        "doctor",
        "demo",
        "completions",
        "man",
    ];
    for command in names {
        commands.push(vec![command]);
    }
    commands.extend([vec!["rules", "check"], vec!["rules", "explain"], vec!["config", "check"], vec!["config", "show"]]);
    commands.extend([vec!["rules", "import"], vec!["rules", "export"], vec!["list", "scan"], vec!["list", "check"]]);
    for mut command in commands {
        command.push("--help");
        let help = program.run(&command).exits(0);
        assert!(help.stdout.contains("Usage: larder") && help.stderr.is_empty(), "{command:?}");
        assert!(!help.stdout.contains("TODO"));
        assert!(help.stdout.contains("Examples:\n  larder ") || command[0] == "list", "{command:?}: {}", help.stdout);
    }
    // Blank lines of clap's long help hold spaces.
    let help: Vec<String> = program.run(&["--help"]).stdout.lines().map(|line| line.trim_end().to_owned()).collect();
    assert_snapshot!(help.join("\n"), @"
    Copies the images of lists, through cache rules, into a target: a registry or an OCI image layout.
    Every digest is checked, and what images share is copied once. A run that was killed continues where
    it stopped.

    Usage: larder [OPTIONS] <COMMAND>

    Commands:
      plan         Show what sync would do and cost, spending no pull
      sync         Copy the images of the lists to the target
      export       Write a bundle that can be carried across an air gap
      import       Put a bundle, or an OCI layout or archive, into a target
      inventory    Print the digests that a target holds, as export's --base takes them
      verify       Check a layout, bundle, archive or registry, and name what is damaged or missing
      gc           Remove the content of a layout that no name reaches
      serve        Serve a layout as a read-only registry
      limits       Show the pulls that each upstream has left, spending none
      rules        Check cache rules, show how an image resolves, read and write other systems' rules
      list         Find image references in other tools' files, or check lists
      config       Check the configuration, or show what is in effect
      doctor       Check everything a run needs: ask every registry of the configuration, look at files
                   and folders
      demo         Show a cold run and a run with nothing to do, against an upstream on this machine
      completions  Print a completion script
      man          Print the man page
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Everywhere:
      -c, --config <FILE>
              Configuration file. Default: larder.toml in the working directory, if it exists

          --log-format <LOG_FORMAT>
              Format of the lines on standard error

              [default: text]
              [possible values: text, json]

      -q, --quiet
              Print failures only

      -v, --verbose...
              Print requests and decisions too; twice for everything

          --color <COLOR>
              Colour the messages

              [default: auto]
              [possible values: auto, always, never]

          --no-progress
              No progress bars, even on a terminal

    Examples:
      larder demo
      larder sync --image quay.io/prometheus/busybox:latest
      larder sync lists/base.csv --report report.json

    Exit status:
      0  the target holds everything asked for
      1  something failed; the rest was delivered
      2  usage or configuration; nothing was attempted
      3  nothing failed, but unfinished: run it again
      130  stopped by a second interrupt
    ");
}

#[test]
fn completions_and_the_man_page_name_every_command() {
    let program = Program::new();
    let pages = [program.run(&["completions", "bash"]), program.run(&["completions", "zsh"]), program.run(&["man"])];
    for page in pages {
        let page = page.exits(0).stdout;
        for command in
            ["plan", "sync", "export", "import", "inventory", "verify", "gc", "serve", "rules", "list", "config", "demo", "explain"]
        {
            assert!(page.contains(command), "{command} is not in:\n{page}");
        }
    }
}

#[test]
fn quiet_says_only_what_failed() {
    let (upstream, program) = (Fake::start(), Program::new());
    simple(&upstream, "app", "v1", 1);
    program.list([upstream.image("app:v1")]);
    let run = program.sync(&["-q", "list.txt"]).exits(0);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
    program.list([upstream.image("app:v1"), upstream.image("app:v2")]);
    let run = program.sync(&["list.txt", "-q"]).exits(1);
    assert_eq!((run.stdout.as_str(), run.stderr.lines().count()), ("", 1));
    assert!(run.stderr.starts_with("error: list.txt:2: "), "{}", run.stderr);
}

#[test]
fn every_line_of_a_json_log_is_json() {
    let (upstream, program) = (Fake::start(), Program::new());
    simple(&upstream, "app", "v1", 1);
    program.list([upstream.image("app:v1"), upstream.image("app:v2"), "Not OK".to_owned()]);
    for verbosity in [&[][..], &["-v"], &["-vv"]] {
        let run = program.sync(&[&["list.txt", "--log-format", "json", "--color", "always"], verbosity].concat()).exits(1);
        let lines: Vec<Value> =
            run.stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"))).collect();
        for line in &lines {
            assert!(line["timestamp"].is_string() && line["level"].is_string() && line["fields"]["message"].is_string(), "{line}");
        }
        let failed = lines.iter().find(|line| line["fields"]["source"] == upstream.image("app:v2").as_str()).unwrap();
        assert_eq!((failed["level"].as_str(), failed["fields"]["error"]["status"].as_u64()), (Some("ERROR"), Some(404)));
        assert!(lines.iter().any(|line| line["fields"]["totals"]["images"] == 3), "the summary's numbers");
    }
    // Before a run, too.
    let run = program.run(&["sync", "gone.txt", "--log-format", "json"]).exits(2);
    let line: Value = serde_json::from_str(run.stderr.trim()).unwrap();
    assert_eq!(line["fields"]["side"], "local");
}
