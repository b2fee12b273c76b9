//! Runs the provider component: on one thread, in one instance, replaced when it fails.
//!
//! The thread owns everything that the component touches: its store, its timers, its connections. Callers reach it through
//! a channel, so they may live on any runtime or on none, and may stop waiting at any time.

mod artefact;
mod bounds;
mod component;
mod cpu;
mod desk;
mod instance;
mod kept;
mod private;

pub(crate) use artefact::Trusted;
pub use artefact::{is_precompiled, precompile};
pub(crate) use bounds::Bounds;
pub use component::{CodeOrigin, EMBEDDED_0_2, EMBEDDED_0_3, ProviderDescription, ProviderError, WasiVersion};
pub(crate) use component::{Compiled, Provider, compilation_cache, compile};
pub(crate) use desk::{Ask, Call, Place, ReplyTo};

use crate::broker::hits::Hits;
use crate::outbound::Outbound;
use crate::provision::Directory;
use crate::telemetry::{Restart, Telemetry};
use crate::token::unix_time;
use desk::Desk;
use instance::Limits;
use std::cell::RefCell;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::runtime::{self, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

/// After an instance failed, how long until the next one starts; doubled while they go on failing at once.
const FIRST_BACK_OFF: Duration = Duration::from_millis(10);

/// The longest wait between two instances that fail at once.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5);

/// What an instance gets besides the component itself.
pub(crate) struct Surroundings {
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) outbound: Outbound,
    pub(crate) directory: Option<Directory>,
    pub(crate) memory_limit: usize,
    pub(crate) telemetry: Telemetry,
}

/// What reaches the provider's thread.
pub(crate) enum Message {
    Call(Call),
    /// Takes no more calls, and ends when those that were taken have their answers.
    Drain,
}

/// The thread of a provider. It ends when every sender of messages is gone.
pub(crate) struct Running {
    pub(crate) messages: UnboundedSender<Message>,
    /// Its runtime, for timers.
    pub(crate) runtime: runtime::Handle,
    /// Closed when the thread has nothing more to do.
    pub(crate) ended: watch::Receiver<()>,
    pub(crate) thread: JoinHandle<()>,
}

/// Starts the thread of a provider. What it answers is kept in `hits`.
pub(crate) fn start(compiled: Compiled, surroundings: Surroundings, hits: Arc<Hits>) -> Result<Running, ProviderError> {
    let (messages, receiver) = unbounded_channel();
    let (end, ended) = watch::channel(());
    let (report, started) = blocking::channel();
    let thread = thread::Builder::new()
        .name("managed-identity".to_owned())
        .spawn(move || {
            // Made here, because a runtime must not be dropped on a thread of another one.
            match runtime::Builder::new_current_thread().enable_io().enable_time().build() {
                Ok(runtime) => {
                    // Whoever starts it waits for this.
                    let _ = report.send(Ok(runtime.handle().clone()));
                    run(runtime, &compiled, &surroundings, receiver, &hits);
                    hits.close();
                }
                Err(error) => drop(report.send(Err(error))),
            }
            drop((compiled, surroundings, hits));
            drop(end);
        })
        .map_err(ProviderError::Thread)?;
    let runtime = started
        .recv()
        .unwrap_or_else(|_| Err(std::io::Error::other("it has ended at once")))
        .map_err(ProviderError::Thread)?;
    Ok(Running {
        messages,
        runtime,
        ended,
        thread,
    })
}

fn run(
    runtime: Runtime,
    compiled: &Compiled,
    surroundings: &Surroundings,
    messages: UnboundedReceiver<Message>,
    hits: &Arc<Hits>,
) {
    runtime.block_on(async {
        tokio::select! {
            () = serve(compiled, surroundings, messages, hits) => {}
            () = hits.age(unix_time) => {}
        }
    });
    // Name look-ups run on threads of their own, which nobody waits for any more.
    runtime.shutdown_background();
}

async fn serve(
    compiled: &Compiled,
    surroundings: &Surroundings,
    messages: UnboundedReceiver<Message>,
    hits: &Arc<Hits>,
) {
    let desk = RefCell::new(Desk::new(Arc::clone(hits)));
    let mut reception = Reception {
        desk: &desk,
        messages,
        is_open: true,
    };
    let meter = Arc::new(cpu::Meter::default());
    let _ticker = cpu::Ticker::start(compiled.instance.engine(), Arc::clone(&meter));
    let mut back_off = FIRST_BACK_OFF;
    loop {
        let limits = Limits {
            memory: surroundings.memory_limit,
            meter: Arc::clone(&meter),
        };
        let answered = desk.borrow().answered();
        let (reason, failure) = {
            let mut driver = pin!(meter.measure(instance::drive(compiled, surroundings, limits, &desk)));
            tokio::select! {
                biased;
                // Before the reception, which then sees whether that was the last answer.
                failure = &mut driver => failure,
                end = reception.attend() => match end {
                    End::Deserted => return,
                    End::Stuck => (Restart::Stuck, "it did not answer in time".to_owned()),
                },
            }
        };
        hits.telemetry().restarted(reason);
        tracing::warn!(target: "managed_identity::provider", failure, "the provider instance failed and is replaced");
        back_off = if desk.borrow().answered() > answered {
            FIRST_BACK_OFF
        } else {
            (back_off * 2).min(LONGEST_BACK_OFF)
        };
        desk.borrow_mut().instance_failed(&failure);
        let mut pause = pin!(tokio::time::sleep(back_off));
        loop {
            tokio::select! {
                biased;
                () = &mut pause => break,
                end = reception.attend() => if let End::Deserted = end {
                    return;
                },
            }
        }
    }
}

/// Takes calls in, and turns them away when their time is over, whether an instance runs or not.
struct Reception<'a> {
    desk: &'a RefCell<Desk>,
    messages: UnboundedReceiver<Message>,
    is_open: bool,
}

/// Why nobody attends to calls any more.
enum End {
    /// The instance has not answered in time what it was asked.
    Stuck,
    /// No call will come, and none waits.
    Deserted,
}

impl Reception<'_> {
    /// May be dropped at any time and called again.
    async fn attend(&mut self) -> End {
        loop {
            let wake = Desk::next_deadline(self.desk);
            tokio::select! {
                biased;
                message = self.messages.recv(), if self.is_open => match message {
                    Some(Message::Call(call)) => self.desk.borrow_mut().accept(call),
                    Some(Message::Drain) => self.messages.close(),
                    // All that were sent have been taken.
                    None => self.is_open = false,
                },
                () = wake => if self.desk.borrow_mut().turn_away_overdue() {
                    return End::Stuck;
                },
                () = Desk::deserted(self.desk), if !self.is_open => return End::Deserted,
            }
        }
    }
}
