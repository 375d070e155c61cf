//! Named and anonymous pipes, splicing and write-back.
