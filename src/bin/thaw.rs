//! thaw
fn main() {}
