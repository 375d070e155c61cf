//! Conversions of requests, by tables: what is taken and as what, what is refused and where.

mod containers;
mod sandboxes;
mod snapshots;
mod values;
