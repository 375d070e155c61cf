//! Files, directories and extended attributes beneath descriptors.
