//! thawd
