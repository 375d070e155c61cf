//! criu-images
