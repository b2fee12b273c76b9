//! One instance of the component: its store, what it is given, and the calls it answers.

use super::Surroundings;
use super::bounds::Bounds;
use super::component::{Compiled, WasiVersion};
use super::cpu::Meter;
use super::desk::{Answer, Desk, Question};
use crate::bindings::{v0_2, v0_3};
use crate::outbound::OutboundHooks;
use crate::provision::Directory;
use crate::sandbox::{Sandbox, add_wasi_0_2, add_wasi_0_3};
use crate::telemetry::Restart;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::cell::RefCell;
use std::sync::Arc;
use wasmtime::Store;
use wasmtime::component::{Accessor, Component, Linker};
use wasmtime_wasi::{FsPerms, WasiCtx};

/// How many bytes the component may hand to the host in one call. The largest thing is a token, of at most 64 KiB.
const HOSTCALL_FUEL: usize = 80 * 1024;

/// How many calls run side by side in one instance; more wait for their turn. Equal calls count once. The engine takes a
/// time for each call that grows with their number, so that a thousand at once take a second and ten thousand a minute.
const MOST_CALLS: usize = 1_000;

/// How many handles the component may hold: a call holds fewer than a dozen.
const MOST_HANDLES: usize = 16 * MOST_CALLS;

/// How many bytes of random numbers the component may ask for at once. It draws eight, for jitter.
const MOST_RANDOM_BYTES: u64 = 4096;

/// How many things of `wasi:http`, `wasi:io` and the like the component may hold. It needs two for each reply that is being
/// read, and no more are than [`OutboundConfig::concurrent_requests`]. The largest are requests that it does not send:
/// authority and method may each be as long as one call permits and the path 64 KiB, which makes 90 MiB in all.
///
/// [`OutboundConfig::concurrent_requests`]: crate::outbound::OutboundConfig::concurrent_requests
const MOST_RESOURCES: usize = 384;

/// How many bytes the header fields of one request may have, in memory. Those of the largest have a few kilobytes.
const FIELDS_LIMIT: usize = 16 * 1024;

/// The bounds of one instance.
pub(super) struct Limits {
    pub(super) memory: usize,
    pub(super) meter: Arc<Meter>,
}

/// All of WASI, over a context that holds no socket, no argument, no standard stream, and no file but those that the source
/// needs: a provider in any language starts, and can reach nothing but the identity endpoint.
///
/// In the versions that it names, because to offer those that it does not would take longer than to instantiate it.
pub(super) fn linker(component: &Component) -> wasmtime::Result<Linker<Sandbox>> {
    let engine = component.engine();
    let mut linker = Linker::new(engine);
    let component = component.component_type();
    let names = |version: &str| component.imports(engine).any(|(name, _)| name.contains(version));
    if names("@0.2.") {
        add_wasi_0_2(&mut linker)?;
    }
    if names("@0.3.") {
        add_wasi_0_3(&mut linker)?;
    }
    Ok(linker)
}

/// What an instance has of WASI.
fn belongings(environment: &[(String, String)], directory: Option<&Directory>) -> WasiCtx {
    let mut wasi = WasiCtx::builder();
    wasi.envs(environment)
        .allow_tcp(false)
        .allow_udp(false)
        .max_random_size(MOST_RANDOM_BYTES);
    if let Some(Directory { place, name }) = directory
        && let Err(error) = wasi.preopened_dir(place, name, FsPerms::ReadOnly)
    {
        // Not the end: the component says which file it misses, once it does.
        tracing::debug!(
            target: "managed_identity::provider",
            directory = %place.display(),
            "the directory of the credential cannot be opened: {}",
            error.root_cause()
        );
    }
    wasi.build()
}

/// Opens the directory of the credential anew. It may have been made or replaced since, or its path lead elsewhere, and what
/// was open would go on showing what was there before.
fn reopen(sandbox: &mut Sandbox, directory: Option<&Directory>) {
    if directory.is_some() {
        let mut anew = belongings(&[], directory);
        *sandbox.wasi().filesystem() = std::mem::take(anew.filesystem());
    }
}

fn store(compiled: &Compiled, surroundings: &Surroundings, limits: &Limits) -> Store<Sandbox> {
    let wasi = belongings(&surroundings.environment, surroundings.directory.as_ref());
    let hooks = OutboundHooks::new(surroundings.outbound.clone()).with_telemetry(surroundings.telemetry.clone());
    let sandbox = Sandbox::provider(wasi, hooks, Bounds::new(limits.memory)).with_limits(FIELDS_LIMIT, MOST_RESOURCES);
    let mut store = sandbox.into_store(compiled.instance.engine());
    store.set_hostcall_fuel(HOSTCALL_FUEL);
    store.set_max_component_handles(MOST_HANDLES);
    limits.meter.watch(&mut store);
    store
}

/// Starts an instance and puts the desk's calls to it until it fails. Returns why it failed.
pub(super) async fn drive(
    compiled: &Compiled,
    surroundings: &Surroundings,
    limits: Limits,
    desk: &RefCell<Desk>,
) -> (Restart, String) {
    let store = store(compiled, surroundings, &limits);
    let driven = match compiled.version {
        WasiVersion::V0_2 => drive_0_2(compiled, surroundings, store, desk).await,
        WasiVersion::V0_3 => drive_0_3(compiled, surroundings, store, desk).await,
    };
    let Err(error) = driven;
    // The root cause alone: a backtrace of the component's insides says nothing to the caller.
    (Restart::of(&error), error.root_cause().to_string())
}

enum Never {}

async fn drive_0_2(
    compiled: &Compiled,
    surroundings: &Surroundings,
    mut store: Store<Sandbox>,
    desk: &RefCell<Desk>,
) -> wasmtime::Result<Never> {
    let instance = v0_2::CallerPre::new(compiled.instance.clone())?
        .instantiate_async(&mut store)
        .await?;
    let provider = instance.cloud_identity_managed_identity();
    loop {
        let (number, question) = Desk::next(desk).await;
        let answer = match question {
            Question::Token(request, time_left) => {
                reopen(store.data_mut(), surroundings.directory.as_ref());
                let request = v0_2::request(&request, time_left);
                let result = provider.call_get_token(&mut store, &request).await?;
                Answer::Token(result.map(v0_2::access_token).map_err(v0_2::error))
            }
            Question::Forget(audience) => {
                provider.call_forget(&mut store, audience.as_deref()).await?;
                Answer::Forgotten
            }
            Question::Describe => {
                let result = provider.call_describe_source(&mut store).await?;
                Answer::Description(result.map(v0_2::description).map_err(v0_2::error))
            }
        };
        desk.borrow_mut().answer(number, answer);
    }
}

async fn drive_0_3(
    compiled: &Compiled,
    surroundings: &Surroundings,
    mut store: Store<Sandbox>,
    desk: &RefCell<Desk>,
) -> wasmtime::Result<Never> {
    let instance = v0_3::CallerPre::new(compiled.instance.clone())?
        .instantiate_async(&mut store)
        .await?;
    let provider = instance.cloud_identity_managed_identity();
    store
        .run_concurrent(async |accessor| {
            let mut running = FuturesUnordered::new();
            loop {
                tokio::select! {
                    Some(answered) = running.next() => {
                        let (number, answer) = answered?;
                        desk.borrow_mut().answer(number, answer);
                    }
                    (number, question) = Desk::next(desk), if running.len() < MOST_CALLS => {
                        running.push(put_0_3(accessor, provider, surroundings.directory.as_ref(), number, question));
                    }
                }
            }
        })
        .await?
}

async fn put_0_3(
    accessor: &Accessor<Sandbox>,
    provider: &v0_3::exports::cloud::identity::managed_identity::Guest,
    directory: Option<&Directory>,
    number: u64,
    question: Question,
) -> wasmtime::Result<(u64, Answer)> {
    let answer = match question {
        Question::Token(request, time_left) => {
            accessor.with(|mut access| reopen(access.get(), directory));
            let request = v0_3::request(&request, time_left);
            let result = provider.call_get_token(accessor, request).await?;
            Answer::Token(result.map(v0_3::access_token).map_err(v0_3::error))
        }
        Question::Forget(audience) => {
            provider.call_forget(accessor, audience).await?;
            Answer::Forgotten
        }
        Question::Describe => {
            let result = provider.call_describe_source(accessor).await?;
            Answer::Description(result.map(v0_3::description).map_err(v0_3::error))
        }
    };
    Ok((number, answer))
}

#[cfg(all(test, unix))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the files are the test's own")]

    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};
    use std::{env, fs, process};
    use wasmtime::component::{Resource, ResourceTable};
    use wasmtime_wasi::filesystem::WasiFilesystemView;
    use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
    use wasmtime_wasi::p2::bindings::filesystem::types::{
        Descriptor, DescriptorFlags, ErrorCode, HostDescriptor, OpenFlags, PathFlags,
    };
    use wasmtime_wasi::{WasiCtxView, WasiView};

    /// A folder with a granted directory in it and things beside that, until it is dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = env::temp_dir().join(format!("managed-identity-{}-{test}", process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn directory(&self) -> PathBuf {
            self.0.join("keys")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// What an instance has, without the instance.
    struct Belongings(WasiCtx, ResourceTable);

    impl WasiView for Belongings {
        fn ctx(&mut self) -> WasiCtxView<'_> {
            WasiCtxView {
                ctx: &mut self.0,
                table: &mut self.1,
            }
        }
    }

    impl Belongings {
        fn with(place: &Path) -> Self {
            let directory = Directory {
                place: place.to_owned(),
                name: "/var/keys".to_owned(),
            };
            Self(belongings(&[], Some(&directory)), ResourceTable::new())
        }

        fn directories(&mut self) -> Vec<(Resource<Descriptor>, String)> {
            self.filesystem().get_directories().unwrap()
        }

        /// Opens a file in the directory, following links, and reads it.
        async fn read(&mut self, path: &str) -> Result<String, ErrorCode> {
            self.open(path, OpenFlags::empty(), DescriptorFlags::READ).await
        }

        async fn open(&mut self, path: &str, open: OpenFlags, access: DescriptorFlags) -> Result<String, ErrorCode> {
            let (directory, _) = self.directories().remove(0);
            let mut filesystem = self.filesystem();
            let opened = filesystem
                .open_at(directory, PathFlags::SYMLINK_FOLLOW, path.to_owned(), open, access)
                .await;
            let file = opened.map_err(|error| error.downcast().unwrap())?;
            let read = filesystem.read(file, 1024, 0).await;
            let (bytes, _) = read.map_err(|error| error.downcast().unwrap())?;
            Ok(String::from_utf8(bytes).unwrap())
        }
    }

    #[tokio::test]
    async fn a_granted_directory_is_read_and_nothing_beside_it() {
        let folder = Folder::new("beside");
        let keys = folder.directory();
        fs::create_dir(&keys).unwrap();
        fs::create_dir(keys.join("..data")).unwrap();
        fs::write(keys.join("..data/token"), "inside").unwrap();
        fs::write(folder.0.join("secret"), "outside").unwrap();
        symlink("..data/token", keys.join("token")).unwrap();
        symlink("../secret", keys.join("relative")).unwrap();
        symlink(folder.0.join("secret"), keys.join("absolute")).unwrap();
        symlink(&folder.0, keys.join("folder")).unwrap();

        let mut belongings = Belongings::with(&keys);
        let names: Vec<String> = belongings.directories().into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["/var/keys"]);
        // As Kubernetes' projected volumes have it.
        assert_eq!(belongings.read("token").await, Ok("inside".to_owned()));
        for outside in [
            "../secret",
            "..data/../../secret",
            "relative",
            "absolute",
            "folder/secret",
            "/etc/hostname",
            "..",
        ] {
            let found = belongings.read(outside).await;
            assert!(
                matches!(found, Err(ErrorCode::NotPermitted | ErrorCode::Access)),
                "{outside}: {found:?}"
            );
        }
    }

    #[tokio::test]
    async fn nothing_in_a_granted_directory_is_changed() {
        let folder = Folder::new("changed");
        let keys = folder.directory();
        fs::create_dir(&keys).unwrap();
        fs::write(keys.join("a.key"), "key").unwrap();
        let mut belongings = Belongings::with(&keys);
        let (read, write) = (DescriptorFlags::READ, DescriptorFlags::READ | DescriptorFlags::WRITE);
        for (path, open, access) in [
            ("a.key", OpenFlags::empty(), write),
            ("a.key", OpenFlags::TRUNCATE, read),
            ("b.key", OpenFlags::CREATE, read),
            ("b.key", OpenFlags::CREATE, write),
        ] {
            let found = belongings.open(path, open, access).await;
            assert!(found.is_err(), "{path} {open:?}: {found:?}");
        }
        let directory = |belongings: &mut Belongings| belongings.directories().remove(0).0;
        let [unlink, make, link, from, to] = std::array::from_fn(|_| directory(&mut belongings));
        let mut filesystem = belongings.filesystem();
        let (old, new) = (|| "a.key".to_owned(), || "b.key".to_owned());
        let changes = [
            ("unlink", filesystem.unlink_file_at(unlink, old()).await),
            ("mkdir", filesystem.create_directory_at(make, new()).await),
            ("symlink", filesystem.symlink_at(link, old(), new()).await),
            ("rename", filesystem.rename_at(from, old(), to, new()).await),
        ];
        for (change, outcome) in changes {
            assert!(outcome.is_err(), "{change}");
        }
        assert_eq!(fs::read_to_string(keys.join("a.key")).unwrap(), "key");
        assert_eq!(fs::read_dir(&keys).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_directory_is_looked_for_anew_by_each_instance() {
        let folder = Folder::new("anew");
        let keys = folder.directory();
        assert_eq!(Belongings::with(&keys).directories().len(), 0);
        fs::create_dir(&keys).unwrap();
        fs::write(keys.join("a.key"), "key").unwrap();
        let mut belongings = Belongings::with(&keys);
        assert_eq!(belongings.read("a.key").await, Ok("key".to_owned()));
        assert_eq!(
            Belongings(self::belongings(&[], None), ResourceTable::new())
                .directories()
                .len(),
            0
        );
    }
}
