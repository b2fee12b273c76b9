//! Finds a credential file in the directories that the host grants.

use crate::platform::CredentialFile;
#[cfg(target_arch = "wasm32")]
use crate::platform::FileFault;

/// The directory in or above that of `file` which is closest to it, and the path from there.
pub(crate) fn closest<D>(granted: impl IntoIterator<Item = (D, String)>, file: &CredentialFile) -> Option<(D, String)> {
    granted
        .into_iter()
        .filter_map(|(directory, name)| {
            let name = name.trim_end_matches('/');
            let below = file.directory.trim_end_matches('/').strip_prefix(name)?;
            let path = match below.strip_prefix('/') {
                None if below.is_empty() => file.name.clone(),
                None => return None,
                Some(below) => format!("{below}/{}", file.name),
            };
            Some((name.len(), directory, path))
        })
        .max_by_key(|(length, _, _)| *length)
        .map(|(_, directory, path)| (directory, path))
}

/// Refuses what is no regular file.
#[cfg(target_arch = "wasm32")]
pub(crate) fn expect_file(is_file: bool, is_link: bool) -> Result<(), FileFault> {
    match (is_file, is_link) {
        (true, _) => Ok(()),
        (false, true) => Err(FileFault::Link),
        (false, false) => Err(FileFault::NotAFile),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_directory_is_taken() {
        let file = |directory: &str| CredentialFile {
            what: "It",
            directory: directory.to_owned(),
            name: "n".to_owned(),
            limit: 1,
            may_be_link: false,
        };
        let tokens = "/var/opt/azcmagent/tokens";
        for (granted, directory, expected) in [
            (&["/var/opt/azcmagent/tokens"][..], tokens, Some((0, "n"))),
            (&["/var/opt/azcmagent/tokens/"], tokens, Some((0, "n"))),
            (&["/", "/var/opt"], tokens, Some((1, "azcmagent/tokens/n"))),
            (&["/"], tokens, Some((0, "var/opt/azcmagent/tokens/n"))),
            (&["/"], "/", Some((0, "n"))),
            (
                &["/var/opt/azcmagent/tok", "/var/opt/azcmagent/tokens/x", "."],
                tokens,
                None,
            ),
            (&[r"C:\ProgramData\Tokens"], r"C:\ProgramData\Tokens", Some((0, "n"))),
            (&[], tokens, None),
        ] {
            let named = granted.iter().map(|name| (*name).to_owned()).enumerate();
            let found = closest(named, &file(directory));
            let found = found.as_ref().map(|(index, path)| (*index, path.as_str()));
            assert_eq!(found, expected, "{granted:?} {directory}");
        }
    }
}
