//! The guests, built.

use crate::support::program::run;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where they are, each in the folder of its language.
pub(crate) const GUESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/guests");

/// Hands all languages to a macro, after whatever else is for it: their names, those of modules for them, and their folders.
macro_rules! languages {
    ($macro:ident $($more:tt)*) => {
        $macro! {
            $($more)*
            (Rust, rust, "rust")
            (RustAsync, rust_async, "rust-async")
            (Python, python, "python")
            (JavaScript, javascript, "javascript")
            (C, c, "c")
            (Go, go, "go")
        }
    };
}
pub(crate) use languages;

macro_rules! define {
    ($(($language:ident, $module:ident, $folder:literal))*) => {
        /// A language that has a guest.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Language {
            $($language,)*
        }

        impl Language {
            pub(crate) const ALL: &[Self] = &[$(Self::$language),*];

            /// Its folder in [`GUESTS`].
            pub(crate) fn folder(self) -> &'static str {
                match self {
                    $(Self::$language => $folder,)*
                }
            }
        }
    };
}
languages!(define);

/// The component of `fetch-secret` in this language. It is built if need be, which takes minutes where its tools are missing.
pub(crate) fn component(language: Language) -> PathBuf {
    let script = Path::new(GUESTS).join(language.folder()).join("build.sh");
    let output = Command::new(&script).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{} cannot be run: {error}", script.display()));
    assert!(
        output.status.success(),
        "{} failed: {}",
        script.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    let component = Path::new(printed.strip_suffix('\n').unwrap());
    assert!(component.is_absolute() && component.is_file(), "it printed {printed:?}");
    component.to_owned()
}

/// The same, and the command has it in its cache. Tests run side by side, and each of the first would compile it by itself: for
/// minutes, where a language brings its engine along.
pub(crate) fn compiled(language: Language) -> PathBuf {
    let component = component(language);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("polyglot");
    fs::create_dir_all(&folder).unwrap();
    let mut marker = File::options();
    let marker = marker
        .create(true)
        .append(true)
        .open(folder.join(language.folder()).with_extension("compiled"));
    let mut marker = marker.unwrap();
    marker.lock().unwrap();
    let compiled = marker.metadata().unwrap();
    let since = |file: &Path| fs::metadata(file).unwrap().modified().unwrap();
    let newest = since(&component).max(since(Path::new(env!("CARGO_BIN_EXE_managed-identity"))));
    if compiled.len() == 0 || compiled.modified().unwrap() < newest {
        // Without arguments, it asks for nothing.
        let outcome = run::<&str, &str>([], &["run", component.to_str().unwrap()]);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        writeln!(marker, "compiled").unwrap();
    }
    component
}

#[test]
fn each_folder_is_that_of_a_language() {
    let mut folders: Vec<_> = fs::read_dir(GUESTS)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        // What tools leave behind begins with a dot.
        .filter(|folder| folder != "wit" && !folder.starts_with('.'))
        .collect();
    folders.sort();
    let mut known: Vec<_> = Language::ALL.iter().map(|language| language.folder()).collect();
    known.sort_unstable();
    assert_eq!(folders, known);
}
