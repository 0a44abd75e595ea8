//! Lists as users write them: what each line means, and what each wrong line is told.

use super::*;
use proptest::prelude::*;

const HEX: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// An entry in one line: `line source selection [-> target] [!priority]`.
fn show(entry: &ListEntry) -> String {
    let selection = match &entry.selection {
        ImageSelection::One { tag, digest } => {
            let tag = tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
            tag + &digest.as_ref().map(|digest| format!("@{}", digest.short())).unwrap_or_default()
        }
        ImageSelection::Terms(terms) => format!(" {{{}}} - {{{}}}", terms.tags_column(), terms.exclude_column()),
    };
    let target = entry.target.as_ref().map(|target| {
        let tag = target.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        format!(" -> {}{tag}", target.repository)
    });
    let priority = if entry.priority == 0 { String::new() } else { format!(" !{}", entry.priority) };
    format!("{} {}{selection}{}{priority}", entry.origin.line, entry.source, target.unwrap_or_default())
}

fn entries(parsed: &ParsedList) -> Vec<String> {
    parsed.entries.iter().map(show).collect()
}

fn errors(parsed: &ParsedList) -> Vec<String> {
    parsed.errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_text_list_is_one_reference_a_line() {
    let text = format!(
        "# base images\nalpine\n\n  quay.io/prometheus/busybox:latest  # with a comment\n\t# indented\nx#y\nalpine:3.20@sha256:{HEX}\n\
         ghcr.io/a/b@sha256:{HEX}\nbusybox\t#tab"
    );
    let expected = [
        "2 docker.io/library/alpine:latest",
        "4 quay.io/prometheus/busybox:latest",
        "7 docker.io/library/alpine:3.20@aaaaaaaaaaaa",
        "8 ghcr.io/a/b@aaaaaaaaaaaa",
        "9 docker.io/library/busybox:latest",
    ];
    for text in [text.clone(), format!("\u{feff}{}\r\n", text.replace('\n', "\r\n"))] {
        let parsed = parse("lists/base.txt", &text).unwrap();
        assert_eq!(entries(&parsed), expected);
        assert_eq!(errors(&parsed), ["lists/base.txt:6: `x#y`: `#` may not stand in a repository name"]);
        assert_eq!(parsed.errors[0].text, "x#y");
        assert_eq!(parsed.entries[1].text, "quay.io/prometheus/busybox:latest");
    }
}

#[test]
fn a_csv_list_has_columns() {
    let text = format!(
        "# what the clusters pull\n\n image , target ,priority,tags,exclude, platforms\r\n\
         alpine,,,,,\n\
         alpine, base/alpine ,-3, 3.20 ; 3.21 ,,\n\
         # a comment, \"with a quote\n\
         quay.io/a/b,b,5,\"1.*;\n  latest\",*rc*,\n\
         busybox:1.36,tools/busybox:stable,,,,\n\
         \n\
         busybox,tools/busybox:one,,1.36,,\n\
         ,,,,,\n\
         \"a/b:1@sha256:{HEX}\",c:2,+7,,,\n\
         a/b@sha256:{HEX},c,,,,\n"
    );
    let parsed = parse("l.csv", &text).unwrap();
    assert_eq!(errors(&parsed), Vec::<String>::new());
    assert_eq!(
        entries(&parsed),
        [
            "4 docker.io/library/alpine:latest",
            "5 docker.io/library/alpine {3.20;3.21} - {} -> base/alpine !-3",
            "7 quay.io/a/b {1.*;latest} - {*rc*} -> b !5",
            "9 docker.io/library/busybox:1.36 -> tools/busybox:stable",
            "11 docker.io/library/busybox:1.36 -> tools/busybox:one",
            "13 docker.io/a/b:1@aaaaaaaaaaaa -> c:2 !7",
            "14 docker.io/a/b@aaaaaaaaaaaa -> c",
        ]
    );
    assert_eq!(parsed.entries[2].text, "quay.io/a/b,b,5,\"1.*;   latest\",*rc*,", "one line, however many it was written in");
}

#[test]
fn a_bad_line_is_told_why_and_the_others_go_on() {
    for (line, message) in [
        ("alpine:3.20,3.21,,,,", "`alpine:3.20` has a tag, and `tags` is not empty: only one of the two can choose"),
        (
            &format!("a@sha256:{HEX},3.21,,,,")[..],
            &format!("`a@sha256:{HEX}` has a digest, and `tags` is not empty: only one of the two can choose")[..],
        ),
        ("alpine:3.20,,*rc*,,,", "`alpine:3.20` has a tag, and `exclude` is not empty: only one of the two can choose"),
        ("alpine,,*rc*,,,", "`exclude` without `tags` (write `*` in `tags` to choose from all tags)"),
        ("alpine,;,,,,", "`tags` holds no term (write `*` for all tags)"),
        ("alpine,semver:>=,,,,", "`semver:>=`: `>=` lacks a version"),
        ("alpine,\"semver:>=1.2, <2, latest\",,,,", "`semver:>=1.2, <2, latest`: `latest` is no version: it begins with a number"),
        ("alpine,latest:many,,,,", "`latest:many`: how many? A number of 1 or more belongs behind the colon"),
        ("alpine,newest:-1,,,,", "`newest:-1`: how many? A number of 1 or more belongs behind the colon"),
        ("alpine,max-age:a month,,,,", "`max-age:a month`: `a month` is not an age: write it like 12h, 30d or 8w"),
        ("alpine,newest:1;newest:2,,,,", "`newest:2`: `newest` is there twice"),
        ("alpine,*,/(rc/,,,", "`/(rc/` is not a regex: unclosed group"),
        ("alpine,/rc,,,,", "`/rc`: a regex stands between two slashes"),
        (
            "alpine:3.*,,,,,",
            "`3.*` is not a tag (letters, digits, `.`, `_`, `-`; at most 128); patterns of tags belong in the `tags` column of a CSV list",
        ),
        ("alpine,*,latest:3,,,", "`latest:3`: `exclude` takes tags, globs and regexes, not latest"),
        ("alpine,latest:3,,,a:x,", "target `a:x`: the line can mean several tags: leave the tag out, they keep their names"),
        ("alpine,,,linux,,", "`linux` is not a platform: write it like linux/amd64, linux/arm/v7 or windows/amd64:10.0.20348"),
        ("alpine,,,,Base,", "target `Base`: repository names are lower case"),
        ("alpine,,,,a/../b,", "target `a/../b`: `..` must begin and end with a letter or digit"),
        ("alpine,,,,/a,", "target `/a`: a component between slashes is empty"),
        ("alpine,,,,a:,", "target `a:`: `` is not a tag (letters, digits, `.`, `_`, `-`; at most 128)"),
        ("alpine,,,,:x,", "target `:x`: the repository is missing"),
        ("alpine,,,,h:1/a,", "target `h:1/a`: `:` may not stand in a repository name"),
        ("alpine,1;2,,,a:x,", "target `a:x`: the line can mean several tags: leave the tag out, they keep their names"),
        ("alpine,1*,,,a:x,", "target `a:x`: the line can mean several tags: leave the tag out, they keep their names"),
        (
            &format!("a@sha256:{HEX},,,,a:x,")[..],
            "target `a:x`: the line has a digest and no tag: write `:x` before the `@` in `image` instead",
        ),
        (
            &format!("alpine,,,,a@sha256:{HEX},")[..],
            &format!("target `a@sha256:{HEX}`: a digest is what the source has; the target takes a repository")[..],
        ),
        ("alpine,,,,,high", "priority `high` is not an integer"),
        ("alpine,,,,,1.5", "priority `1.5` is not an integer"),
        ("alpine,,,,,99999999999999999999", "priority `99999999999999999999` is not an integer"),
        (",3.20,,,,", "the image is missing"),
        ("alpine", "the header has 6 fields, this line 1 (values in one field are separated by `;`)"),
        ("alpine,1,2,,,,", "the header has 6 fields, this line 7 (values in one field are separated by `;`)"),
        ("https://alpine,,,,,", "`https://alpine`: write the image without `https://`"),
        ("al\x1b[2Jpine,,,,,", "`al\\u{1b}[2Jpine`: repository names are lower case"),
        ("alpine,\x1b[2J\u{202e},,,,", "`\\u{1b}[2J\\u{202e}`: `\\u{1b}` stands in no tag"),
        ("\"alpine,,,,,", "a field begins with `\"` and never ends"),
    ] {
        let parsed = parse("-", &format!("image,tags,exclude,platforms,target,priority\nfirst,,,,,\n{line}\nlast,,,,,\n")).unwrap();
        assert_eq!(errors(&parsed), [format!("-:3: {message}")], "{line}");
        assert_eq!(entries(&parsed), ["2 docker.io/library/first:latest", "4 docker.io/library/last:latest"], "{line}");
    }
}

#[test]
fn whoever_meant_columns_in_a_text_list_is_told_so() {
    let parsed = parse("l.txt", "alpine,3.20\nalpine 3.20\n").unwrap();
    assert_eq!(
        errors(&parsed),
        [
            "l.txt:1: a text list has one image a line (for columns, name the file `.csv` or begin with a header line)",
            "l.txt:2: a text list has one image a line, and comments begin with `#`"
        ]
    );
}

#[test]
fn a_file_of_another_format_is_told_from_a_list() {
    let yaml = "this is YAML, and a list is text or CSV: `larder list scan FILE` finds the images in it, and prints a list";
    for (text, expected) in [
        ("# images\n---\na: b\n", format!("l.txt:2: {yaml}")),
        ("apiVersion: v1\nkind: Pod\n", format!("l.txt:1: {yaml}")),
        ("services:\n  web:\n", format!("l.txt:1: {yaml}")),
        ("- alpine\n- busybox\n", format!("l.txt:1: {yaml}")),
        ("{\"images\": []}", format!("l.txt:1: {}", yaml.replace("YAML", "JSON"))),
        (
            "image;tags\nalpine;3.20\n",
            "l.txt:1: the header's fields are separated by `;`: write `,` between them (`;` separates values in one field)".to_owned(),
        ),
        ("Image\nalpine\n", "l.txt:1: the header has a column `Image`: write it in small letters, `image`".to_owned()),
    ] {
        assert_eq!(parse("l.txt", text).unwrap_err().message(), expected, "{text}");
    }
    for text in ["localhost:5000/a:1 # images: some\n", "alpine:3.20\nquay.io/a/image\n", "library/image\n"] {
        assert_eq!(parse("l.txt", text).unwrap().errors, [], "{text}");
    }
}

#[test]
fn name_or_header_decide_the_format() {
    let csv = "# c\n\n\"tags\",\"image\"\n1;2,alpine\n";
    for file in ["-", "l.txt", "l.csv", "L.CSV", "csv", ""] {
        assert_eq!(entries(&parse(file, csv).unwrap()), ["4 docker.io/library/alpine {1;2} - {}"], "{file}");
        assert_eq!(parse(file, "").unwrap(), ParsedList::default(), "{file}");
        assert_eq!(parse(file, "\u{feff}# nothing\r\n\r\n").unwrap(), ParsedList::default(), "{file}");
    }
    assert_eq!(entries(&parse("l", "image\nalpine\n").unwrap()), ["2 docker.io/library/alpine:latest"], "a header of one column");
    assert_eq!(parse("-", "images\nalpine\n").unwrap().entries.len(), 2, "no header: text");
}

#[test]
fn a_meaningless_file_is_an_error_that_names_the_line() {
    for (text, message) in [
        (
            "image;tags\nalpine;3.20\n",
            "l.csv:1: the header's fields are separated by `;`: write `,` between them (`;` separates values in one field)",
        ),
        (
            "image\ttags\nalpine\t3.20\n",
            "l.csv:1: the header's fields are separated by tabs: write `,` between them (`;` separates values in one field)",
        ),
        ("# c\nImage,tags\nalpine,3.20\n", "l.csv:2: the header has a column `Image`: write it in small letters, `image`"),
        ("\n# c\nimage,arch\nalpine,amd64\n", "l.csv:3: unknown column `arch` (known: image, tags, exclude, platforms, target, priority)"),
        ("image,tags,\n", "l.csv:1: column 3 has no name (known: image, tags, exclude, platforms, target, priority)"),
        (
            "alpine,3.20\n",
            "l.csv:1: no column `image`: the first line of a CSV list names its columns \
             (known: image, tags, exclude, platforms, target, priority)",
        ),
        ("image,tags,image\n", "l.csv:1: column `image` is there twice"),
        ("image,\"tags\nalpine\n", "l.csv:1: a field begins with `\"` and never ends"),
        ("image,\x1b[31m\n", "l.csv:1: unknown column `\\u{1b}[31m` (known: image, tags, exclude, platforms, target, priority)"),
    ] {
        assert_eq!(parse("l.csv", text).unwrap_err().to_string(), format!("local: read list: {message}"), "{text:?}");
    }
}

#[test]
fn bytes_must_be_utf8() {
    assert_eq!(entries(&parse_bytes("l", b"\xef\xbb\xbfalpine\r\n").unwrap()), ["1 docker.io/library/alpine:latest"]);
    for (bytes, message) in [
        (&b"alpine\n\nbusy\xffbox\n"[..], "l:3: byte 0xff is not UTF-8; save the list as UTF-8"),
        (b"alpine\n\xc3", "l:2: byte 0xc3 is not UTF-8; save the list as UTF-8"),
        (b"\xff\xfea\0l\0", "l:1: this is UTF-16; save it as UTF-8"),
    ] {
        assert_eq!(parse_bytes("l", bytes).unwrap_err().message(), message);
    }
}

#[test]
fn an_image_flag_is_a_list_of_one_line() {
    let parsed = from_flag("quay.io/prometheus/busybox");
    assert_eq!(entries(&parsed), ["1 quay.io/prometheus/busybox:latest"]);
    assert_eq!(parsed.entries[0].origin.to_string(), "--image:1");
    let parsed = from_flag("not an image\x07");
    assert_eq!(errors(&parsed), ["--image:1: `not an image\\u{7}`: ` ` may not stand in a repository name"]);
    assert_eq!(parsed.errors[0].text, "not an image\\u{7}");
    assert_eq!(errors(&from_flag("")), ["--image:1: the image is missing"]);
    assert_eq!(
        parsed.errors[0].to_error().to_string(),
        "local: read list: --image:1: `not an image\\u{7}`: ` ` may not stand in a repository name",
        "what a report's row says"
    );
}

#[test]
fn a_hostile_file_name_does_not_reach_the_terminal() {
    let parsed = parse("x\x1b[2J", "a:b:c").unwrap();
    assert!(errors(&parsed)[0].starts_with("x\\u{1b}[2J:1: "), "{:?}", errors(&parsed));
    assert!(parse("\x1b.csv", "x").unwrap_err().message().starts_with("\\u{1b}.csv:1: "));
}

proptest! {
    #[test]
    fn parsing_never_panics_counts_lines_right_and_prints_safely(
        text in "(image,tags(,exclude|,target|,priority)?\n)?([ab/:@#,;\"* \r\n\t1\u{202e}\x1b-]|alpine|sha256:|semver:|newest:|max-age:|\\PC){0,40}",
        csv: bool,
    ) {
        if let Ok(parsed) = parse(if csv { "l.csv" } else { "l" }, &text) {
            let lines = text.lines().count();
            let mut seen = std::collections::BTreeSet::new();
            for origin in parsed.entries.iter().map(|entry| &entry.origin).chain(parsed.errors.iter().map(|error| &error.origin)) {
                prop_assert!((1..=lines).contains(&origin.line), "{} of {lines}", origin.line);
                prop_assert!(seen.insert(origin.line), "line {} twice", origin.line);
            }
            for shown in parsed.errors.iter().flat_map(|error| [&error.text, &error.message]).chain(parsed.entries.iter().map(|entry| &entry.text)) {
                prop_assert_eq!(&printable(shown), shown);
            }
        }
    }

    #[test]
    fn text_and_csv_mean_the_same(images in proptest::collection::vec("[a-z]{1,5}(/[a-z]{1,3})?(:[0-9a-z]{1,4})?", 1..6)) {
        let text = parse("l", &images.join("\n")).unwrap();
        let csv = parse("l", &format!("image\r\n{}\r\n", images.join("\r\n"))).unwrap();
        prop_assert!(text.errors.is_empty() && csv.errors.is_empty());
        for (text, csv) in text.entries.iter().zip(&csv.entries) {
            prop_assert_eq!(text.origin.line + 1, csv.origin.line);
            prop_assert_eq!((&text.source, &text.selection, &text.text), (&csv.source, &csv.selection, &csv.text));
        }
        prop_assert_eq!(text.entries.len(), images.len());
        prop_assert_eq!(csv.entries.len(), images.len());
    }
}
