//! bundler
