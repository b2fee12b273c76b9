//! Whether a folder, and a file in it, are such that nobody else can have written what is in them.

use std::fs::OpenOptions;
use std::path::Path;

/// Whether a folder, which is made if need be, belongs to this user, and nobody else can put a file there.
pub(super) fn is_private(folder: &Path) -> bool {
    is_closed(folder, WRITE)
}

/// Whether nobody else can even look into it. For folders whose files are made by others than us, with a mode that this
/// process's umask decides: where that leaves writing to a group, the folder is what keeps the group out.
pub(super) fn is_secluded(folder: &Path) -> bool {
    is_closed(folder, ANY)
}

/// What a mode has when others than the owner can write.
const WRITE: u32 = 0o022;

/// What a mode has when others than the owner can do anything.
const ANY: u32 = 0o077;

#[cfg(unix)]
fn is_closed(folder: &Path, to_others: u32) -> bool {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    let is_closed = made.is_ok() && is_this_users(folder, to_others);
    if !is_closed {
        tracing::warn!(
            target: "managed_identity::provider",
            folder = %folder.display(),
            "no compilation cache: the folder cannot be made, or others can write to it"
        );
    }
    is_closed
}

/// Whether a file belongs to this user, and nobody else can write to it.
#[cfg(unix)]
pub(super) fn is_own(file: &Path) -> bool {
    is_this_users(file, WRITE)
}

#[cfg(unix)]
fn is_this_users(path: &Path, to_others: u32) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path)
        .is_ok_and(|path| path.uid() == rustix::process::geteuid().as_raw() && path.mode() & to_others == 0)
}

/// How a file is made that nobody else can write to, or read, whatever the umask.
pub(super) fn own_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Where access is not told by owner and mode, the user's own cache folder is taken for what it is.
#[cfg(not(unix))]
fn is_closed(_: &Path, _: u32) -> bool {
    true
}

/// The same for what is in it.
#[cfg(not(unix))]
pub(super) fn is_own(_: &Path) -> bool {
    true
}

#[cfg(all(test, unix))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_others_could_have_written_is_not_private() {
        let folder = std::env::temp_dir().join(format!("managed-identity-private-{}", std::process::id()));
        let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        assert!(is_private(&folder) && is_secluded(&folder), "it is made so");
        let file = folder.join("file");
        own_file().open(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        for (bits, private, secluded) in [
            (0o700, true, true),
            (0o755, true, false),
            (0o750, true, false),
            (0o711, true, false),
            (0o770, false, false),
            (0o702, false, false),
            (0o777, false, false),
        ] {
            mode(&folder, bits);
            assert_eq!(
                (is_private(&folder), is_secluded(&folder)),
                (private, secluded),
                "{bits:o}"
            );
        }
        mode(&folder, 0o700);
        for (bits, own) in [(0o600, true), (0o644, true), (0o664, false), (0o602, false)] {
            mode(&file, bits);
            assert_eq!(is_own(&file), own, "{bits:o}");
        }
        assert!(!is_own(&folder.join("none")));
        fs::remove_dir_all(folder).unwrap();
    }
}
