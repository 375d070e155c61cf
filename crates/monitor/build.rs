//! Links `thawd-monitor` statically where the system's C compiler can.
//!
//! One monitor stands beside each container, so its memory counts. Measured on x86-64 with glibc 2.36
//! (`VmRSS`, idle): `run` takes 1.2 MiB as a static position-independent executable and 1.6 MiB linked
//! dynamically, `pause` 1.4 and 2.2 MiB: the dynamic linker, its relocations and the unused parts of the
//! C library are the difference. Nor is a static program disturbed by an upgrade of the host's C library
//! while it runs.
//!
//! rustc links its `gnu` targets dynamically unless the whole build asks otherwise (`crt-static`), and
//! then could not build procedural macros for the host. So the choice is made for this one binary, by
//! linker arguments: `-static-pie`, and a directory in which the libraries that rustc names (`-lc`,
//! `-lgcc_s`, …) are linker scripts that name the static ones. GNU ld reads those; rustc's lld was seen to
//! make a program of them that crashes at its start, so `-fuse-ld=bfd` goes with it.
//!
//! Where a trial shows that this does not work (no static C library, another linker), the binary is
//! linked as usual and only larger.
#![expect(
    clippy::disallowed_methods,
    reason = "a build script has no layer below it; what it writes is a build's own output"
)]

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What rustc's `gnu` targets name.
const LIBRARIES: [&str; 7] = ["c", "m", "gcc_s", "util", "rt", "pthread", "dl"];

const ARGUMENTS: [&str; 2] = ["-static-pie", "-fuse-ld=bfd"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CC");
    let Some(out) = env::var_os("OUT_DIR").map(PathBuf::from) else {
        return;
    };
    let gnu_linux = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux")
        && env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu");
    let native = env::var("HOST").ok() == env::var("TARGET").ok();
    if !(gnu_linux && native && write_scripts(&out).is_ok() && trial(&out)) {
        println!("cargo:warning=no static C library: thawd-monitor is linked dynamically");
        return;
    }
    println!(
        "cargo:rustc-link-arg-bins=-L{}",
        out.join("static").display()
    );
    for argument in ARGUMENTS {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}

fn write_scripts(out: &Path) -> std::io::Result<()> {
    let directory = out.join("static");
    std::fs::create_dir_all(&directory)?;
    let script = "GROUP ( -l:libc.a -l:libm.a -l:libgcc.a -l:libgcc_eh.a )\n";
    for library in LIBRARIES {
        std::fs::write(directory.join(format!("lib{library}.so")), script)?;
    }
    Ok(())
}

/// Links a program the same way and runs it.
fn trial(out: &Path) -> bool {
    let (source, program) = (out.join("trial.c"), out.join("trial"));
    let text = "#include <stdio.h>\nint main(void) { return puts(\"\") < 0; }\n";
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let quiet = |command: &mut Command| {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    std::fs::write(&source, text).is_ok()
        && quiet(
            Command::new(compiler)
                .arg("-fPIE")
                .arg(&source)
                .args(["-nodefaultlibs", "-Wl,-Bdynamic", "-lgcc_s", "-lc", "-pie"])
                .arg("-L")
                .arg(out.join("static"))
                .args(ARGUMENTS)
                .arg("-o")
                .arg(&program),
        )
        && quiet(&mut Command::new(program))
}
