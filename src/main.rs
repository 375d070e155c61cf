//! thawd
fn main() {}
