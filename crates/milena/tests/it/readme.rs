//! The program that a newcomer meets first is the same wherever it is shown. It runs as a test of the documentation, and
//! ends only when its event is handled.

/// The first Rust program of a text, each line without `prefix`.
fn first_program(text: &str, prefix: &str, fence: &str) -> String {
    let lines = text.lines().map(|line| line.strip_prefix(prefix).unwrap_or(line).trim_end());
    let program = lines.skip_while(|line| *line != fence).skip(1).take_while(|line| *line != "```");
    program.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_readme_and_the_documentation_show_the_same_program() {
    let readme = first_program(include_str!("../../../../README.md"), "", "```rust");
    let documentation = first_program(include_str!("../../src/lib.rs"), "//! ", "```");
    assert!(readme.contains("Bus::embedded()"), "{readme}");
    assert_eq!(readme, documentation.replace("//!", ""));
}
