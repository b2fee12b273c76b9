//! A key-value store that outlives instances, as a host of either draft offers it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

/// What all instances see.
#[derive(Clone, Default)]
pub(crate) struct Values(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl Values {
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap()
    }
}

/// An open store.
#[expect(unreachable_pub, reason = "the bindings export it again")]
pub struct Bucket;

/// What an instance sees of the store.
pub(crate) struct View<'a> {
    pub(crate) values: &'a Values,
    /// The name of the store, if the instance may open it.
    pub(crate) granted: Option<&'a str>,
    pub(crate) table: &'a mut ResourceTable,
}

struct HasView;

impl HasData for HasView {
    type Data<'a> = View<'a>;
}

/// The type of a cursor is all that differs between the drafts.
macro_rules! host {
    ($module:ident, $path:literal, $cursor:ty, $next:expr) => {
        #[allow(dead_code, reason = "each test takes the draft that it needs")]
        pub(crate) mod $module {
            use super::*;

            wasmtime::component::bindgen!({
                path: $path,
                world: "wasi:keyvalue/imports",
                with: { "wasi:keyvalue/store.bucket": crate::store::Bucket },
            });

            use wasi::keyvalue::store::{self, Error, KeyResponse};

            pub(crate) fn add_to_linker<T: Send + 'static>(linker: &mut Linker<T>, view: fn(&mut T) -> View<'_>) {
                store::add_to_linker::<_, HasView>(linker, view).unwrap();
            }

            impl store::Host for View<'_> {
                fn open(&mut self, identifier: String) -> Result<Resource<Bucket>, Error> {
                    match self.granted {
                        None => Err(Error::AccessDenied),
                        Some(name) if name == identifier => Ok(self.table.push(Bucket).unwrap()),
                        Some(_) => Err(Error::NoSuchStore),
                    }
                }
            }

            impl store::HostBucket for View<'_> {
                fn get(&mut self, _: Resource<Bucket>, key: String) -> Result<Option<Vec<u8>>, Error> {
                    Ok(self.values.lock().get(&key).cloned())
                }

                fn set(&mut self, _: Resource<Bucket>, key: String, value: Vec<u8>) -> Result<(), Error> {
                    self.values.lock().insert(key, value);
                    Ok(())
                }

                fn delete(&mut self, _: Resource<Bucket>, key: String) -> Result<(), Error> {
                    self.values.lock().remove(&key);
                    Ok(())
                }

                fn exists(&mut self, _: Resource<Bucket>, key: String) -> Result<bool, Error> {
                    Ok(self.values.lock().contains_key(&key))
                }

                /// A page for each key.
                fn list_keys(&mut self, _: Resource<Bucket>, cursor: Option<$cursor>) -> Result<KeyResponse, Error> {
                    let values = self.values.lock();
                    let position = cursor.map_or(0, |cursor| cursor.to_string().parse().unwrap());
                    let next: fn(usize) -> $cursor = $next;
                    Ok(KeyResponse {
                        keys: values.keys().skip(position).take(1).cloned().collect(),
                        cursor: (position + 1 < values.len()).then(|| next(position + 1)),
                    })
                }

                fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
                    self.table.delete(bucket)?;
                    Ok(())
                }
            }
        }
    };
}

host!(
    draft,
    "../../guest/cache/wit/deps/keyvalue-0.2.0-draft",
    u64,
    |position| position as u64
);
host!(
    draft2,
    "../../guest/cache/wit/deps/keyvalue-0.2.0-draft2",
    String,
    |position| position.to_string()
);
