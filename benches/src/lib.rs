//! What the benches share: a table for people, `--json FILE`, `--quick`, and interleaved timing.
