//! Runs the provider component: on one thread, in one instance, replaced when it fails.
//!
//! The thread owns everything that the component touches: its store, its timers, its connections. Callers reach it through
//! a channel, so they may live on any runtime or on none, and may stop waiting at any time.

mod component;
mod cpu;
mod desk;
mod instance;

pub(crate) use component::{Compiled, compilation_cache, compile};
pub use component::{EMBEDDED_0_2, EMBEDDED_0_3, ProviderError, WasiVersion};
pub(crate) use desk::{Ask, Call};

use crate::outbound::Outbound;
use crate::provision::Directory;
use desk::Desk;
use instance::Limits;
use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

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
}

/// Serves calls until the last sender of `calls` is gone. Blocks its thread.
pub(crate) fn run(
    compiled: &Compiled,
    surroundings: &Surroundings,
    calls: UnboundedReceiver<Call>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    runtime.block_on(serve(compiled, surroundings, calls));
    // Name look-ups run on threads of their own, which nobody waits for any more.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(compiled: &Compiled, surroundings: &Surroundings, mut calls: UnboundedReceiver<Call>) {
    let desk = Rc::new(RefCell::new(Desk::default()));
    let meter = Arc::new(cpu::Meter::default());
    let _ticker = cpu::Ticker::start(compiled.instance.engine(), Arc::clone(&meter));
    let mut back_off = FIRST_BACK_OFF;
    loop {
        let limits = Limits {
            memory: surroundings.memory_limit,
            meter: Arc::clone(&meter),
        };
        let answered = desk.borrow().answered();
        let failure = {
            let mut driver = pin!(meter.measure(instance::drive(compiled, surroundings, limits, &desk)));
            loop {
                let wake = Desk::next_deadline(&desk);
                tokio::select! {
                    biased;
                    call = calls.recv() => match call {
                        Some(call) => desk.borrow_mut().accept(call),
                        // The last handle is gone, and with it everybody who could wait for an answer.
                        None => return,
                    },
                    failure = &mut driver => break failure,
                    () = wake => if desk.borrow_mut().turn_away_overdue() {
                        break "it did not answer in time".to_owned();
                    },
                }
            }
        };
        tracing::warn!(target: "managed_identity::provider", failure, "the provider instance failed and is replaced");
        back_off = if desk.borrow().answered() > answered {
            FIRST_BACK_OFF
        } else {
            (back_off * 2).min(LONGEST_BACK_OFF)
        };
        desk.borrow_mut().turn_away_running(&failure);
        // Calls go on being accepted and turned away at their deadline while nothing runs.
        let mut pause = pin!(tokio::time::sleep(back_off));
        loop {
            let wake = Desk::next_deadline(&desk);
            tokio::select! {
                biased;
                () = &mut pause => break,
                call = calls.recv() => match call {
                    Some(call) => desk.borrow_mut().accept(call),
                    None => return,
                },
                () = wake => {
                    desk.borrow_mut().turn_away_overdue();
                }
            }
        }
    }
}
