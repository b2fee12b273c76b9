//! Whether a folder is one that nobody else can write to.

use std::path::Path;

/// Whether a folder, which is made if need be, belongs to this user alone.
#[cfg(unix)]
pub(super) fn is_private(folder: &Path) -> bool {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    let private = made.is_ok()
        && std::fs::metadata(folder)
            .is_ok_and(|folder| folder.uid() == rustix::process::geteuid().as_raw() && folder.mode() & 0o022 == 0);
    if !private {
        tracing::warn!(
            target: "managed_identity::provider",
            folder = %folder.display(),
            "no compilation cache: the folder cannot be made, or others can write to it"
        );
    }
    private
}

/// Where access is not told by owner and mode, the user's own cache folder is taken for what it is.
#[cfg(not(unix))]
pub(super) fn is_private(_: &Path) -> bool {
    true
}
