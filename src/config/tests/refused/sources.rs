use super::*;

#[test]
fn sources() {
    let source = |lines: &str| after_base(&format!("[[jobs.etcd.sources]]\n{lines}"));
    for (lines, expected) in [
        (
            "type = \"tree\"\nname = \"ca\"\npath = \"/a\"",
            "14:8 jobs.etcd.sources[1].name: is ca, the name of another source",
        ),
        (
            "type = \"tree\"\nname = \"t\"\npath = \"a\"",
            "15:8 jobs.etcd.sources[1].path: is \"a\"; expected a path that begins with /",
        ),
        (
            "type = \"tree\"\nname = \"t\"\npath = \"/[a\"",
            "15:8 jobs.etcd.sources[1].path: is \"/[a\", which is not a glob",
        ),
        (
            "type = \"tree\"\nname = \"t\"\npath = \"/a\"\nexclude = [\"b\", \"{c\"]",
            "16:17 jobs.etcd.sources[1].exclude[1]: is \"{c\"",
        ),
        (
            "type = \"tree\"\nname = \"t\"\npath = \"/a\"\nexclude = [\"/a/b\"]",
            "16:12 jobs.etcd.sources[1].exclude[0]: is \"/a/b\", which matches nothing",
        ),
        (
            "type = \"file\"\nname = \"t\"\npath = \"/a\"\nzzzzzzzz = 1",
            "16:1 jobs.etcd.sources[1].zzzzzzzz: is not a known key; expected one of name, path, type",
        ),
        (
            "type = \"tree\"\nname = \"t\"\npath = \"/a\"\nargv = [\"b\"]",
            "16:8 jobs.etcd.sources[1].argv: applies only with type = \"command\"",
        ),
        ("type = \"tree\"\nname = \"t\"", "12:1 jobs.etcd.sources[1].path: is missing"),
        ("type = \"command\"\nname = \"t\"\nargv = []", "15:8 jobs.etcd.sources[1].argv: names no program"),
        (
            "type = \"command\"\nname = \"t\"\nargv = [\"a\", 1]",
            "15:14 jobs.etcd.sources[1].argv[1]: expected a string",
        ),
        (
            "type = \"dir\"\nname = \"t\"\npath = \"/a\"",
            "13:8 jobs.etcd.sources[1].type: is \"dir\"; expected \"tree\" or",
        ),
        ("type = \"file\"\npath = \"/a\"", "12:1 jobs.etcd.sources[1].name: is missing"),
    ] {
        let faults = source(lines);
        assert!(faults.len() == 1 && faults[0].starts_with(expected), "{lines}: {faults:#?}");
    }
    let faults = bad(&format!("{BASE}[jobs.empty]\nlocation = \"primary\"\n"));
    assert_eq!(
        faults,
        ["12:1 jobs.empty.sources: is empty; a job saves at least one source: add [[jobs.NAME.sources]]"]
    );
}

#[test]
fn ebs_sources() {
    let source = |lines: &str| after_base(&format!("[[jobs.etcd.sources]]\n{lines}"));
    for (lines, expected) in [
        ("type = \"ebs\"\nname = \"t\"", "12:1 jobs.etcd.sources[1].volumes: is missing; name the volumes, or select"),
        ("type = \"ebs\"\nname = \"t\"\nvolumes = []", "15:11 jobs.etcd.sources[1].volumes: is empty"),
        ("type = \"ebs\"\nname = \"t\"\nselect_tags = {}", "15:15 jobs.etcd.sources[1].select_tags: is empty"),
        (
            "type = \"ebs\"\nname = \"t\"\nattached_to = \"i-1\"",
            "15:15 jobs.etcd.sources[1].attached_to: is \"i-1\"; expected \"this-instance\" or",
        ),
        (
            "type = \"ebs\"\nname = \"t\"\nattached_to = \"this-instance\"\nconcurrency = 0",
            "16:15 jobs.etcd.sources[1].concurrency: is 0; expected a whole number from 1 to 100",
        ),
        (
            "type = \"ebs\"\nname = \"t\"\nattached_to = \"this-instance\"\nwait = false\nwait_timeout = \"1h\"",
            "17:16 jobs.etcd.sources[1].wait_timeout: applies only with wait = true",
        ),
        (
            "type = \"ebs\"\nname = \"t\"\nattached_to = \"this-instance\"\ntags = { \"penstock:job\" = \"x\" }",
            "16:27 jobs.etcd.sources[1].tags.\"penstock:job\": begins with penstock:, which Penstock keeps",
        ),
    ] {
        let faults = source(lines);
        assert!(faults.len() == 1 && faults[0].starts_with(expected), "{lines}: {faults:#?}");
    }
    let long = source(&format!("type = \"ebs\"\nname = \"{}\"\nattached_to = \"i-01234567\"", "x".repeat(107)));
    assert!(long.len() == 1 && long[0].contains("is 107 characters long; expected at most 106"), "{long:#?}");
    let faults = source("type = \"ebs\"\nname = \"t\"\nvolumes = [\"x\"]\nselect_tags = { a = \"\" }");
    assert_eq!(faults.len(), 2, "both the ID and the clash: {faults:#?}");
}
