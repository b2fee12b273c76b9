//! What crosses the boundary between Envoy and the module: version v0.2.0 of Envoy's ABI for dynamic modules, as far as an
//! HTTP filter needs it. All the unsafe code is here, and nothing else.
//!
//! - Envoy calls the functions `envoy_dynamic_module_on_…` by their names. None of them lets a panic through.
//! - The module calls `envoy_dynamic_module_callback_…`, which the program that has loaded it exports. They are looked up
//!   by their names when the module is loaded, so that an Envoy that lacks one refuses the module and says which.
//! - A filter of the module belongs to one stream of Envoy, whose calls all come from one thread. But Envoy calls a filter
//!   from within what the filter has called, even to end it. So hooks take a share of the filter for as long as they run.
#![expect(unsafe_code, reason = "this is the boundary to a program in another language")]

use crate::callouts::{CALLOUTS, CallOut, Called, ConfigId, NotCalled, Wake};
use crate::config::RouteSettings;
use crate::filter::{Config, Filter};
use bytes::Bytes;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::rc::Rc;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The version that Envoy compares with its own. It accepts the next minor one, too, and warns.
const VERSION: &CStr = c"v0.2.0";

/// `request_header` and `response_header` among the types of headers.
const REQUEST: u32 = 0;
const RESPONSE: u32 = 2;

/// `xds.route_name` among the attributes.
const ROUTE_NAME: u32 = 61;

/// `Success`, `ClusterNotFound` and `CannotCreateRequest` among the answers to a callout that is to be made.
const CALLED: u32 = 0;
const NO_CLUSTER: u32 = 2;
const NO_HOST: u32 = 4;

/// `Success` and `ExceedResponseBufferLimit` among the ends of one.
const ANSWERED: u32 = 0;
const TOO_LARGE: u32 = 2;

type Envoy = *mut c_void;
type Module = *const c_void;

/// Bytes of either side, which the other one may read until the call ends.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Buffer {
    data: *const u8,
    length: usize,
}

/// A header of either side.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    name: *const u8,
    name_length: usize,
    value: *const u8,
    value_length: usize,
}

/// What Envoy is to do with the request.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadersStatus {
    Continue = 0,
    StopIteration = 1,
    StopAllIterationAndWatermark = 4,
}

/// Levels of Envoy's log.
#[derive(Clone, Copy)]
pub(crate) enum Level {
    Debug = 1,
    Warn = 3,
    Error = 4,
}

impl Buffer {
    const NONE: Self = Self {
        data: ptr::null(),
        length: 0,
    };

    fn of(bytes: &[u8]) -> Self {
        Self {
            data: bytes.as_ptr(),
            length: bytes.len(),
        }
    }

    /// # Safety
    /// The bytes must be there, and stay as they are, for `'a`.
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        match self.data.is_null() {
            true => &[],
            // SAFETY: by this function's own condition.
            false => unsafe { slice::from_raw_parts(self.data, self.length) },
        }
    }
}

macro_rules! callbacks {
    ($($field:ident: $name:literal ($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// What the module calls of Envoy.
        struct Callbacks {
            $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Callbacks {
            /// Looks up all of them; else says which is missing.
            ///
            /// # Safety
            /// What `find` finds by a name must be the function that Envoy's ABI has by it, or null.
            unsafe fn find(find: impl Fn(&CStr) -> *mut c_void) -> Result<Self, &'static CStr> {
                Ok(Self {
                    $($field: {
                        let found = find($name);
                        if found.is_null() {
                            return Err($name);
                        }
                        // SAFETY: by this function's own condition, and data and code pointers are alike where Envoy runs.
                        unsafe {
                            std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(found)
                        }
                    },)*
                })
            }
        }
    };
}

callbacks! {
    log: c"envoy_dynamic_module_callback_log" (u32, Buffer);
    log_enabled: c"envoy_dynamic_module_callback_log_enabled" (u32) -> bool;
    is_validation_mode: c"envoy_dynamic_module_callback_is_validation_mode" () -> bool;
    define_counter: c"envoy_dynamic_module_callback_http_filter_config_define_counter"
        (Envoy, Buffer, *mut Buffer, usize, *mut usize) -> u32;
    increment_counter: c"envoy_dynamic_module_callback_http_filter_increment_counter"
        (Envoy, usize, *mut Buffer, usize, u64) -> u32;
    get_header: c"envoy_dynamic_module_callback_http_get_header"
        (Envoy, u32, Buffer, *mut Buffer, usize, *mut usize) -> bool;
    set_header: c"envoy_dynamic_module_callback_http_set_header" (Envoy, u32, Buffer, Buffer) -> bool;
    send_response: c"envoy_dynamic_module_callback_http_send_response"
        (Envoy, u32, *mut Header, usize, Buffer, Buffer);
    attribute: c"envoy_dynamic_module_callback_http_filter_get_attribute_string" (Envoy, u32, *mut Buffer) -> bool;
    route_config: c"envoy_dynamic_module_callback_get_most_specific_route_config" (Envoy) -> Module;
    new_scheduler: c"envoy_dynamic_module_callback_http_filter_scheduler_new" (Envoy) -> Envoy;
    commit: c"envoy_dynamic_module_callback_http_filter_scheduler_commit" (Envoy, u64);
    delete_scheduler: c"envoy_dynamic_module_callback_http_filter_scheduler_delete" (Envoy);
    new_config_scheduler: c"envoy_dynamic_module_callback_http_filter_config_scheduler_new" (Envoy) -> Envoy;
    commit_config: c"envoy_dynamic_module_callback_http_filter_config_scheduler_commit" (Envoy, u64);
    delete_config_scheduler: c"envoy_dynamic_module_callback_http_filter_config_scheduler_delete" (Envoy);
    call_out: c"envoy_dynamic_module_callback_http_filter_config_http_callout"
        (Envoy, *mut u64, Buffer, *mut Header, usize, Buffer, u64) -> u32;
    continue_decoding: c"envoy_dynamic_module_callback_http_filter_continue_decoding" (Envoy);
}

static CALLBACKS: OnceLock<Callbacks> = OnceLock::new();

/// How many configurations of routes there are. Without any, no request has to ask for one.
static ROUTES: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The whole program, to `dlsym`.
#[cfg(not(target_os = "macos"))]
const PROGRAM: *mut c_void = ptr::null_mut();
#[cfg(target_os = "macos")]
const PROGRAM: *mut c_void = ptr::without_provenance_mut(usize::MAX - 1);

/// Writes a line to Envoy's log.
pub(crate) fn log(level: Level, message: &str) {
    let Some(callbacks) = CALLBACKS.get() else { return };
    // SAFETY: both may be called from any thread, and the message is there until they return.
    unsafe {
        if (callbacks.log_enabled)(level as u32) {
            (callbacks.log)(
                level as u32,
                Buffer::of(format!("managed identity: {message}").as_bytes()),
            );
        }
    }
}

/// Envoy's side of a filter's configuration. There for as long as a hook runs that has it.
pub(crate) struct ConfigHandle(Envoy);

impl ConfigHandle {
    /// None if Envoy does not take it: then nothing is counted.
    pub(crate) fn define_counter(&self, name: &str) -> Option<usize> {
        let mut id = 0;
        let callbacks = CALLBACKS.get()?;
        // SAFETY: within a hook, and without labels.
        let result =
            unsafe { (callbacks.define_counter)(self.0, Buffer::of(name.as_bytes()), ptr::null_mut(), 0, &raw mut id) };
        (result == 0).then_some(id)
    }

    /// For other threads to have the configuration's `scheduled` called on the main thread.
    fn scheduler(&self) -> Option<ConfigScheduler> {
        let callbacks = CALLBACKS.get()?;
        // SAFETY: within a hook.
        let scheduler = unsafe { (callbacks.new_config_scheduler)(self.0) };
        (!scheduler.is_null()).then_some(ConfigScheduler(scheduler, callbacks))
    }
}

/// It belongs to the main thread, on which the configuration's `scheduled` is called.
impl CallOut for ConfigHandle {
    fn call_out(
        &self,
        cluster: &str,
        fields: &[(&[u8], &[u8])],
        body: &[u8],
        time: Duration,
    ) -> Result<u64, NotCalled> {
        let callbacks = CALLBACKS.get().ok_or(NotCalled::Other)?;
        let mut headers = headers(fields);
        let mut number = 0;
        // Without any, Envoy would wait for ever.
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        // SAFETY: within a hook, on the main thread. Envoy copies everything.
        let result = unsafe {
            (callbacks.call_out)(
                self.0,
                &raw mut number,
                Buffer::of(cluster.as_bytes()),
                headers.as_mut_ptr(),
                headers.len(),
                Buffer::of(body),
                milliseconds,
            )
        };
        match result {
            CALLED => Ok(number),
            NO_CLUSTER => Err(NotCalled::NoCluster),
            NO_HOST => Err(NotCalled::NoHost),
            _ => Err(NotCalled::Other),
        }
    }
}

/// Wakes a configuration on the main thread. It must be dropped before Envoy's configuration is: the main thread may be gone
/// then.
struct ConfigScheduler(Envoy, &'static Callbacks);

// SAFETY: Envoy makes it for other threads to use. It has a weak reference to its configuration.
unsafe impl Send for ConfigScheduler {}

impl Wake for ConfigScheduler {
    fn wake(&self) {
        // SAFETY: it was not deleted yet, and the main thread is there by this type's own condition.
        unsafe { (self.1.commit_config)(self.0, 0) };
    }
}

impl Drop for ConfigScheduler {
    fn drop(&mut self) {
        // SAFETY: it is deleted once, by its only owner.
        unsafe { (self.1.delete_config_scheduler)(self.0) };
    }
}

/// What Envoy may read for as long as `fields` are there.
fn headers(fields: &[(&[u8], &[u8])]) -> Vec<Header> {
    let headers = fields.iter().map(|(name, value)| Header {
        name: name.as_ptr(),
        name_length: name.len(),
        value: value.as_ptr(),
        value_length: value.len(),
    });
    headers.collect()
}

/// `length` things of Envoy's.
///
/// # Safety
/// They must be there, and stay as they are, for `'a`, or `first` be null.
unsafe fn all<'a, T>(first: *const T, length: usize) -> &'a [T] {
    match first.is_null() || length == 0 {
        true => &[],
        // SAFETY: by this function's own condition.
        false => unsafe { slice::from_raw_parts(first, length) },
    }
}

/// Envoy's side of a filter. There for as long as a hook runs that has it; only hooks make it.
pub(crate) struct Stream(Envoy, &'static Callbacks);

impl Stream {
    fn new(envoy: Envoy) -> Option<Self> {
        CALLBACKS.get().map(|callbacks| Self(envoy, callbacks))
    }

    fn header(&self, kind: u32, name: &[u8], index: usize) -> Option<&[u8]> {
        let mut value = Buffer::NONE;
        // SAFETY: within a hook. The value is there until the header is changed, and those that are read here are not.
        unsafe {
            let found = (self.1.get_header)(self.0, kind, Buffer::of(name), &raw mut value, index, ptr::null_mut());
            found.then(|| value.bytes())
        }
    }

    pub(crate) fn request_header(&self, name: &[u8]) -> Option<&[u8]> {
        self.header(REQUEST, name, 0)
    }

    pub(crate) fn response_header(&self, name: &[u8], index: usize) -> Option<&[u8]> {
        self.header(RESPONSE, name, index)
    }

    /// The fields in which the upstream says what it wants.
    pub(crate) fn challenges(&self) -> Vec<Vec<u8>> {
        let mut index = 0;
        std::iter::from_fn(|| {
            let value = self.response_header(b"www-authenticate", index)?;
            index += 1;
            Some(value.to_vec())
        })
        .collect()
    }

    pub(crate) fn set_request_header(&self, name: &[u8], value: &[u8]) -> bool {
        // SAFETY: within a hook. Envoy copies both.
        unsafe { (self.1.set_header)(self.0, REQUEST, Buffer::of(name), Buffer::of(value)) }
    }

    pub(crate) fn remove_request_header(&self, name: &[u8]) {
        // SAFETY: as above; no value means none.
        unsafe { (self.1.set_header)(self.0, REQUEST, Buffer::of(name), Buffer::NONE) };
    }

    pub(crate) fn route_name(&self) -> Option<&[u8]> {
        let mut value = Buffer::NONE;
        // SAFETY: within a hook. The name is part of Envoy's route, which lasts as long as the stream.
        unsafe { (self.1.attribute)(self.0, ROUTE_NAME, &raw mut value).then(|| value.bytes()) }
    }

    /// What is configured for the route, or the virtual host.
    pub(crate) fn route_settings(&self) -> Option<&RouteSettings> {
        if ROUTES.load(Ordering::Relaxed) == 0 {
            return None;
        }
        // SAFETY: within a hook. What comes back was made by this module, and lasts as long as the route.
        unsafe { (self.1.route_config)(self.0).cast::<RouteSettings>().as_ref() }
    }

    pub(crate) fn count(&self, counter: Option<usize>) {
        if let Some(id) = counter {
            // SAFETY: within a hook, and without labels.
            unsafe { (self.1.increment_counter)(self.0, id, ptr::null_mut(), 0, 1) };
        }
    }

    pub(crate) fn respond(&self, status: u32, headers: &[(&[u8], &[u8])], body: &[u8], details: &[u8]) {
        let mut headers = self::headers(headers);
        // SAFETY: within a hook. Envoy copies everything.
        unsafe {
            (self.1.send_response)(
                self.0,
                status,
                headers.as_mut_ptr(),
                headers.len(),
                Buffer::of(body),
                Buffer::of(details),
            );
        }
    }

    /// For another thread to have the filter's `scheduled` called on this one.
    pub(crate) fn scheduler(&self) -> Option<Scheduler> {
        // SAFETY: within a hook.
        let scheduler = unsafe { (self.1.new_scheduler)(self.0) };
        (!scheduler.is_null()).then_some(Scheduler(scheduler, self.1))
    }

    pub(crate) fn continue_decoding(&self) {
        // SAFETY: within a hook. The filter may be ended by this, of which the hook has a share.
        unsafe { (self.1.continue_decoding)(self.0) };
    }
}

/// Wakes a filter on its worker. It must be dropped before Envoy's filter is: its worker may be gone then.
pub(crate) struct Scheduler(Envoy, &'static Callbacks);

// SAFETY: Envoy makes it for other threads to use. It has a weak reference to its filter.
unsafe impl Send for Scheduler {}

impl Scheduler {
    pub(crate) fn commit(self) {
        // SAFETY: it was not deleted yet, and the filter's worker is there by this type's own condition.
        unsafe { (self.1.commit)(self.0, 0) };
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // SAFETY: it is deleted once, by its only owner.
        unsafe { (self.1.delete_scheduler)(self.0) };
    }
}

/// Runs a hook's own code. A panic ends here.
fn guarded<T>(otherwise: T, hook: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(hook)).unwrap_or_else(|_| {
        log(Level::Error, "a panic was caught; this is a fault of the module");
        otherwise
    })
}

/// # Safety
/// `module` must be what `on_http_filter_new` has returned, and not be destroyed yet.
unsafe fn share(module: Module) -> Option<Rc<Filter>> {
    let filter = module.cast::<Filter>();
    (!filter.is_null()).then(|| {
        // SAFETY: by this function's own condition; all of this is on one thread.
        unsafe {
            Rc::increment_strong_count(filter);
            Rc::from_raw(filter)
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    // SAFETY: a program that loads this module exports functions by these names, or none.
    let found = unsafe { Callbacks::find(|name| dlsym(PROGRAM, name.as_ptr())) };
    match found {
        Ok(callbacks) => {
            // It is the same program when this is called again.
            let _ = CALLBACKS.set(callbacks);
            VERSION.as_ptr()
        }
        Err(name) => {
            // There is no log to write to.
            #[expect(clippy::print_stderr, reason = "there is nothing else to say it with")]
            {
                eprintln!(
                    "managed identity: this program does not have `{}`; the module is for Envoy 1.40 (ABI {})",
                    name.to_string_lossy(),
                    VERSION.to_string_lossy()
                );
            }
            ptr::null()
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_new(
    envoy: Envoy,
    _name: Buffer,
    text: Buffer,
) -> Module {
    guarded(ptr::null(), || {
        let Some(callbacks) = CALLBACKS.get() else {
            return ptr::null();
        };
        // SAFETY: both within the hook.
        let (text, only_check) = unsafe { (text.bytes(), (callbacks.is_validation_mode)()) };
        match Config::load(&ConfigHandle(envoy), text, only_check) {
            Ok(config) => {
                let module: Module = Arc::into_raw(Arc::new(config)).cast();
                if let Some(scheduler) = ConfigHandle(envoy).scheduler().filter(|_| !only_check) {
                    CALLOUTS.begin(module.addr(), scheduler);
                }
                module
            }
            Err(message) => {
                log(
                    Level::Error,
                    &format!("the filter's configuration is refused: {message}"),
                );
                ptr::null()
            }
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_destroy(module: Module) {
    guarded((), || {
        let config: ConfigId = module.addr();
        CALLOUTS.end(config);
        // SAFETY: made above, and given back once.
        drop(unsafe { Arc::from_raw(module.cast::<Config>()) });
    });
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_http_filter_config_scheduled(envoy: Envoy, module: Module, _event: u64) {
    guarded((), || CALLOUTS.scheduled(module.addr(), &ConfigHandle(envoy)));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_http_callout_done(
    _envoy: Envoy,
    module: Module,
    number: u64,
    result: u32,
    headers: *mut Header,
    headers_size: usize,
    chunks: *mut Buffer,
    chunks_size: usize,
) {
    guarded((), || {
        let called = match result {
            // SAFETY: Envoy keeps all of it until the hook ends, and it is copied here.
            ANSWERED => unsafe {
                let fields = all(headers, headers_size).iter().map(|header| {
                    let name = all(header.name, header.name_length);
                    (name.to_vec(), all(header.value, header.value_length).to_vec())
                });
                let body: Vec<&[u8]> = all(chunks, chunks_size).iter().map(|chunk| chunk.bytes()).collect();
                Called::Reply(fields.collect(), Bytes::from(body.concat()))
            },
            TOO_LARGE => Called::TooLarge,
            _ => Called::Reset,
        };
        CALLOUTS.done(module.addr(), number, called);
    });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_new(_name: Buffer, text: Buffer) -> Module {
    guarded(ptr::null(), || {
        // SAFETY: within the hook.
        match RouteSettings::parse(unsafe { text.bytes() }) {
            Ok(settings) => {
                ROUTES.fetch_add(1, Ordering::Relaxed);
                Box::into_raw(Box::new(settings)).cast_const().cast()
            }
            Err(error) => {
                log(Level::Error, &format!("a route's configuration is refused: {error}"));
                ptr::null()
            }
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_destroy(module: Module) {
    guarded((), || {
        ROUTES.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: made above, and given back once.
        drop(unsafe { Box::from_raw(module.cast_mut().cast::<RouteSettings>()) });
    });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_new(config: Module, _envoy: Envoy) -> Module {
    guarded(ptr::null(), || {
        let config = config.cast::<Config>();
        // SAFETY: Envoy's filter keeps its configuration.
        let config = unsafe {
            Arc::increment_strong_count(config);
            Arc::from_raw(config)
        };
        Rc::into_raw(Rc::new(Filter::new(config))).cast()
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_headers(
    envoy: Envoy,
    module: Module,
    _end: bool,
) -> u32 {
    let Some(stream) = Stream::new(envoy) else {
        return HeadersStatus::StopIteration as u32;
    };
    // SAFETY: between new and destroy.
    let status = guarded(None, || {
        unsafe { share(module) }.map(|filter| filter.request_headers(&stream))
    });
    // No request goes on without its token.
    let status = status.unwrap_or_else(|| {
        stream.respond(
            503,
            &[(b"x-managed-identity-error", b"internal")],
            b"",
            b"managed_identity_internal",
        );
        HeadersStatus::StopIteration
    });
    status as u32
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_scheduled(envoy: Envoy, module: Module, _event: u64) {
    let Some(stream) = Stream::new(envoy) else { return };
    // SAFETY: between new and destroy.
    let done = guarded(None, || {
        unsafe { share(module) }.map(|filter| filter.scheduled(&stream))
    });
    if done.is_none() {
        stream.respond(
            503,
            &[(b"x-managed-identity-error", b"internal")],
            b"",
            b"managed_identity_internal",
        );
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_response_headers(
    envoy: Envoy,
    module: Module,
    _end: bool,
) -> u32 {
    // SAFETY: between new and destroy.
    guarded((), || {
        if let (Some(stream), Some(filter)) = (Stream::new(envoy), unsafe { share(module) }) {
            filter.response_headers(&stream);
        }
    });
    HeadersStatus::Continue as u32
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_local_reply(
    _envoy: Envoy,
    module: Module,
    _status: u32,
    _details: Buffer,
    _is_reset: bool,
) -> u32 {
    // SAFETY: between new and destroy.
    guarded((), || {
        if let Some(filter) = unsafe { share(module) } {
            filter.local_reply();
        }
    });
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_destroy(module: Module) {
    // SAFETY: made by new, and given back once.
    guarded((), || drop(unsafe { Rc::from_raw(module.cast::<Filter>()) }));
}

/// Hooks that Envoy asks for, and at which this filter has nothing to do.
macro_rules! idle {
    ($($name:ident($($argument:ty),*);)*) => {
        $(#[unsafe(no_mangle)]
        extern "C" fn $name($(_: $argument),*) {})*
    };
}

/// The same, where Envoy asks whether to go on.
macro_rules! passing {
    ($($name:ident($($argument:ty),*);)*) => {
        $(#[unsafe(no_mangle)]
        extern "C" fn $name($(_: $argument),*) -> u32 {
            HeadersStatus::Continue as u32
        })*
    };
}

passing! {
    envoy_dynamic_module_on_http_filter_request_body(Envoy, Module, bool);
    envoy_dynamic_module_on_http_filter_request_trailers(Envoy, Module);
    envoy_dynamic_module_on_http_filter_response_body(Envoy, Module, bool);
    envoy_dynamic_module_on_http_filter_response_trailers(Envoy, Module);
}

idle! {
    envoy_dynamic_module_on_http_filter_stream_complete(Envoy, Module);
    envoy_dynamic_module_on_http_filter_http_callout_done(Envoy, Module, u64, u32, *mut Header, usize, *mut Buffer, usize);
    envoy_dynamic_module_on_http_filter_http_stream_headers(Envoy, Module, u64, *mut Header, usize, bool);
    envoy_dynamic_module_on_http_filter_http_stream_data(Envoy, Module, u64, *const Buffer, usize, bool);
    envoy_dynamic_module_on_http_filter_http_stream_trailers(Envoy, Module, u64, *mut Header, usize);
    envoy_dynamic_module_on_http_filter_http_stream_complete(Envoy, Module, u64);
    envoy_dynamic_module_on_http_filter_http_stream_reset(Envoy, Module, u64, u32);
    envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(Envoy, Module);
    envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(Envoy, Module);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_that_is_missing_is_named() {
        // SAFETY: nothing that is found is called.
        let found = unsafe {
            Callbacks::find(|name| match name.to_bytes().ends_with(b"_continue_decoding") {
                true => ptr::null_mut(),
                false => ptr::dangling_mut::<c_void>(),
            })
        };
        assert_eq!(
            found.err(),
            Some(c"envoy_dynamic_module_callback_http_filter_continue_decoding")
        );
    }

    #[test]
    fn a_program_that_is_not_envoy_is_refused() {
        assert!(envoy_dynamic_module_on_program_init().is_null());
    }

    #[test]
    fn a_panic_ends_within_the_module() {
        assert_eq!(guarded(7, || panic!("a fault")), 7);
    }

    #[test]
    fn no_bytes_are_read_where_there_are_none() {
        // SAFETY: there are none, and the others are literals.
        unsafe {
            assert_eq!(Buffer::NONE.bytes(), b"");
            assert_eq!(Buffer::of(b"text").bytes(), b"text");
        }
    }

    #[test]
    fn a_route_without_a_readable_configuration_is_refused() {
        // SAFETY: the texts are literals, and what is made is destroyed once.
        unsafe {
            let refused = envoy_dynamic_module_on_http_filter_per_route_config_new(Buffer::NONE, Buffer::of(b"{}"));
            assert!(refused.is_null());
            let made = envoy_dynamic_module_on_http_filter_per_route_config_new(Buffer::NONE, Buffer::of(b"off"));
            assert!(!made.is_null());
            envoy_dynamic_module_on_http_filter_per_route_config_destroy(made);
        }
    }
}
