//! Tasks of the milena workspace.
fn main() {}
