//! Compiled code, kept between starts.
//!
//! One file for each component and engine, as the engine writes it and uncompressed, so that a start maps it instead of
//! reading it: with the engine's own cache, which compresses, unpacking took half of a start and 3 MiB.

use super::component::CodeOrigin;
use super::private::{is_own, is_private, own_file};
use ring::digest::{SHA256, digest};
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use wasmtime::Engine;
use wasmtime::component::Component;

/// After what time since it was written a file goes, when a new one comes. What is still in use is written again.
const LIFE: Duration = Duration::from_secs(30 * 86_400);

/// What the names of the files begin and end with.
const NAME: (&str, &str) = ("provider-", ".cwasm");

/// The compiled component, and where its code comes from: from `folder`, if that has it and belongs to this user alone, or else
/// compiled, and then kept there.
///
/// `digest` is that of the bytes in hexadecimal, if it is known: to reckon it would be a third of the work of a start.
pub(super) fn component(
    engine: &Engine,
    bytes: &[u8],
    digest: Option<&str>,
    folder: Option<&Path>,
) -> wasmtime::Result<(Component, CodeOrigin)> {
    let Some(folder) = folder.filter(|folder| is_private(folder)) else {
        return Ok((Component::new(engine, bytes)?, CodeOrigin::Compiled));
    };
    let file = folder.join(name(engine, &digest.map_or_else(|| sha256(bytes), str::to_owned)));
    // The folder may let others in, and a file that was copied there may let them write.
    if is_own(&file) {
        match load(engine, &file) {
            Ok(component) => return Ok((component, CodeOrigin::Taken)),
            Err(error) => {
                tracing::debug!(target: "managed_identity::provider", "compiled code is of no use: {error:#}")
            }
        }
    }
    let component = Component::new(engine, bytes)?;
    // Without it everything works, only slower; a full disk is no reason to fail.
    Ok(match keep(&component, folder, &file) {
        Ok(()) => (component, CodeOrigin::Kept),
        Err(error) => {
            tracing::debug!(target: "managed_identity::provider", "compiled code is not kept: {error:#}");
            (component, CodeOrigin::Compiled)
        }
    })
}

#[expect(
    unsafe_code,
    reason = "reading a megabyte of code, instead of mapping it, would be most of a start"
)]
fn load(engine: &Engine, file: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the folder and the file are such that nobody but this user has written there, who could run any code here
    // anyway. A file of such a name comes from `keep` and is never written to again, only replaced. The engine refuses what another version or configuration of it wrote.
    unsafe { Component::deserialize_file(engine, file) }
}

fn name(engine: &Engine, digest: &str) -> String {
    let mut compatible = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut compatible);
    format!("{}{digest}-{:016x}{}", NAME.0, compatible.finish(), NAME.1)
}

fn sha256(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn keep(component: &Component, folder: &Path, file: &Path) -> wasmtime::Result<()> {
    let code = component.serialize()?;
    // Of this thread alone, and whole and on the disk before it has its name: a file that is mapped must not change.
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let new = file.with_extension(format!("{}-{}", std::process::id(), now.as_nanos()));
    let written = own_file().open(&new).and_then(|mut file| {
        file.write_all(&code)?;
        file.sync_all()
    });
    let moved = written.and_then(|()| fs::rename(&new, file));
    if moved.is_err() {
        let _ = fs::remove_file(&new);
    }
    moved?;
    Ok(tidy(folder)?)
}

/// Removes what former versions have left.
fn tidy(folder: &Path) -> io::Result<()> {
    let is_old = |file: &PathBuf| {
        let name = file.file_name().and_then(|name| name.to_str());
        let written = fs::metadata(file).and_then(|file| file.modified());
        name.is_some_and(|name| name.starts_with(NAME.0))
            && written.is_ok_and(|written| SystemTime::now().duration_since(written).is_ok_and(|age| age > LIFE))
    };
    for entry in fs::read_dir(folder)? {
        let file = entry?.path();
        if is_old(&file) {
            fs::remove_file(file)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::super::component::{EMBEDDED_0_2, WasiVersion, embedded, engine};
    use super::*;
    use std::fs::File;

    /// An empty folder of this user's, for one test.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("managed-identity-kept-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    #[test]
    fn what_was_compiled_is_kept_and_taken() {
        let folder = folder("taken");
        let engine = engine().unwrap();
        let (_, code) = component(&engine, EMBEDDED_0_2, None, Some(&folder)).unwrap();
        assert_eq!(code, CodeOrigin::Kept);
        let [file] = &files(&folder)[..] else {
            panic!("{:?}", files(&folder))
        };
        // A file that is taken stays as it is.
        let old = SystemTime::now() - Duration::from_secs(3600);
        File::options()
            .write(true)
            .open(file)
            .unwrap()
            .set_modified(old)
            .unwrap();
        // Whether the digest is known or reckoned, it names the same file.
        for digest in [None, Some(embedded(WasiVersion::V0_2).1)] {
            let (_, code) = component(&engine, EMBEDDED_0_2, digest, Some(&folder)).unwrap();
            assert_eq!(code, CodeOrigin::Taken);
        }
        assert_eq!(files(&folder), std::slice::from_ref(file));
        assert_eq!(fs::metadata(file).unwrap().modified().unwrap(), old);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_of_no_use_is_replaced_and_what_is_old_goes() {
        let folder = folder("replaced");
        let engine = engine().unwrap();
        component(&engine, EMBEDDED_0_2, None, Some(&folder)).unwrap();
        let [file] = &files(&folder)[..] else {
            panic!("{:?}", files(&folder))
        };
        let whole = fs::read(file).unwrap();
        let others = ["provider-0-0.cwasm", "theirs.cwasm"].map(|name| folder.join(name));
        for other in &others {
            let file = File::create(other).unwrap();
            file.set_modified(SystemTime::now() - LIFE - Duration::from_secs(60))
                .unwrap();
        }
        for broken in [&b""[..], b"something else", &whole[..whole.len() / 2]] {
            fs::write(file, broken).unwrap();
            let (_, code) = component(&engine, EMBEDDED_0_2, None, Some(&folder)).unwrap();
            assert_eq!(code, CodeOrigin::Kept);
            assert_eq!(fs::read(file).unwrap(), whole);
        }
        assert!(!others[0].exists() && others[1].exists());
        fs::remove_dir_all(folder).unwrap();
    }

    /// Its code is not run, and it is replaced by what nobody else can write to.
    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_write_to_is_not_taken() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let folder = folder("shared");
        let engine = engine().unwrap();
        component(&engine, EMBEDDED_0_2, None, Some(&folder)).unwrap();
        let [file] = &files(&folder)[..] else {
            panic!("{:?}", files(&folder))
        };
        for (mode, is_taken) in [(0o600, true), (0o644, true), (0o664, false), (0o646, false)] {
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
            let before = fs::metadata(file).unwrap().ino();
            component(&engine, EMBEDDED_0_2, None, Some(&folder)).unwrap();
            let after = fs::metadata(file).unwrap();
            assert_eq!(after.ino() == before, is_taken, "{mode:o}");
            if !is_taken {
                assert_eq!(after.mode() & 0o777, 0o600, "{mode:o}");
            }
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_digests_of_what_is_embedded_are_known() {
        for version in [WasiVersion::V0_2, WasiVersion::V0_3] {
            let (bytes, digest) = embedded(version);
            assert_eq!(sha256(bytes), digest);
        }
    }

    #[test]
    fn where_it_cannot_be_kept_it_is_compiled() {
        let folder = folder("none");
        let engine = engine().unwrap();
        fs::write(&folder, "not a folder").unwrap();
        for none in [None, Some(folder.as_path())] {
            let (_, code) = component(&engine, EMBEDDED_0_2, None, none).unwrap();
            assert_eq!(code, CodeOrigin::Compiled);
        }
        fs::remove_file(folder).unwrap();
    }
}
