//! Bounds of what is read: a forged set of images must not fill memory or time.

/// Upper bounds. The defaults fit containers with tens of thousands of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Image files in the set.
    pub max_images: usize,
    /// Size of one image that is not page, queue or file content.
    pub max_image_bytes: u64,
    /// The same, all images together.
    pub max_metadata_bytes: u64,
    /// Raw content outside page images (queues, deleted files, tmpfs), all together.
    pub max_content_bytes: u64,
    /// Page images, all together.
    pub max_page_bytes: u64,
    /// Size of one entry.
    pub max_entry_bytes: u64,
    /// Entries in one image.
    pub max_entries: u64,
    /// Processes.
    pub max_tasks: usize,
    /// Threads, all processes together.
    pub max_threads: usize,
    /// Mounts.
    pub max_mounts: usize,
    /// Open file descriptions.
    pub max_files: usize,
    /// Largest descriptor number.
    pub max_fd: u32,
    /// Mappings of one process (the kernel's default for `vm.max_map_count` is 65530).
    pub max_mappings: usize,
    /// Supplementary groups of a thread (the kernel's limit is 65536).
    pub max_groups: usize,
    /// Seccomp filters.
    pub max_filters: usize,
    /// Steps of the symbolic execution of all filters together; one of runc's takes some millions.
    pub max_filter_steps: u64,
    /// Problems reported before the check gives up.
    pub max_violations: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_images: 300_000,
            max_image_bytes: 64 << 20,
            max_metadata_bytes: 128 << 20,
            max_content_bytes: 4 << 30,
            max_page_bytes: 4 << 40,
            max_entry_bytes: 16 << 20,
            max_entries: 1 << 20,
            max_tasks: 32_768,
            max_threads: 65_536,
            max_mounts: 2_048,
            max_files: 1 << 18,
            max_fd: 1 << 20,
            max_mappings: 262_144,
            max_groups: 65_536,
            max_filters: 1_024,
            max_filter_steps: 200_000_000,
            max_violations: 100,
        }
    }
}
