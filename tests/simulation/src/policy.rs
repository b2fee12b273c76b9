//! When each client asks, and when it asks again.
//!
//! Ours calls the provider's own code for the time of a refresh and the delays between tries. The others are models, made of
//! constants that their sources showed in 2026; each function names the client whose they are. Where a source can be read in
//! two ways, the reading that is better for that client is taken.

use crate::random::Random;
use managed_identity_provider::cache::refresh_on;
use managed_identity_provider::retry::IMDS;

/// The engine's wait after its first failed refresh, doubled with each failure, and the longest: `REFRESH_BACK_OFF` and
/// `LONGEST_REFRESH_BACK_OFF` of `guest/src/cache.rs`, in milliseconds.
const BACK_OFF: u64 = 30_000;
const LONGEST_BACK_OFF: u64 = 480_000;

/// A client library's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// One engine per pod.
    Ours,
    /// One engine per node, which all its pods ask.
    OursBroker,
    /// One engine per pod, with everything that it draws at random taken out.
    OursNoJitter,
    /// The Rust crate `azure_identity` 1.0.
    AzureIdentity,
    /// MSAL Go, with what it does about refreshes by itself: its half-life is computed after the token was stored.
    MsalGo,
    /// MSAL Python 1.39, without a client above it that tries again.
    MsalPython,
    /// MSAL.NET.
    MsalNet,
}

impl Policy {
    pub(crate) const ALL: [Self; 7] = [
        Self::Ours,
        Self::OursBroker,
        Self::OursNoJitter,
        Self::AzureIdentity,
        Self::MsalGo,
        Self::MsalPython,
        Self::MsalNet,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours per pod",
            Self::OursBroker => "ours per node",
            Self::OursNoJitter => "ours without jitter",
            Self::AzureIdentity => "azure_identity 1.0",
            Self::MsalGo => "MSAL Go",
            Self::MsalPython => "MSAL Python",
            Self::MsalNet => "MSAL.NET",
        }
    }

    /// Whether all pods of a node share one client.
    pub(crate) fn is_shared(self) -> bool {
        self == Self::OursBroker
    }

    /// Whether callers get the token they could still use when a refresh has failed. `azure_identity` returns the error.
    pub(crate) fn keeps_valid_token(self) -> bool {
        self != Self::AzureIdentity
    }

    /// From when on a token that was received at `now` is renewed by the next call. Seconds.
    pub(crate) fn refresh_on(self, now: u64, expires_on: u64, random: &mut Random) -> u64 {
        let lifetime = expires_on.saturating_sub(now);
        let five_minutes_early = expires_on.saturating_sub(300).max(now);
        match self {
            Self::Ours | Self::OursBroker => refresh_on(now, expires_on, None, random.next()),
            Self::OursNoJitter => refresh_on(now, expires_on, None, 0),
            Self::AzureIdentity | Self::MsalGo => five_minutes_early,
            Self::MsalPython if lifetime >= 7200 => now + lifetime / 2,
            // Up to five minutes to either side.
            Self::MsalNet if lifetime > 7200 => now + lifetime / 2 - 300 + random.below(601),
            Self::MsalPython | Self::MsalNet => five_minutes_early,
        }
    }

    /// How long to wait before the next try of one request, of which `tries` have failed in `elapsed`; nothing to give up.
    /// Milliseconds. `is_refresh` when there was a valid token as it began.
    pub(crate) fn delay(self, tries: u32, elapsed: u64, is_refresh: bool, random: &mut Random) -> Option<u64> {
        match self {
            // What stands behind a valid token is tried once, and again after the back-off.
            Self::Ours | Self::OursBroker | Self::OursNoJitter if is_refresh => None,
            Self::Ours | Self::OursBroker => ours(tries, random.next()),
            Self::OursNoJitter => {
                let longest = (IMDS.base * (1 << tries.saturating_sub(1).min(16))).min(IMDS.cap);
                ours(tries, (longest - IMDS.floor).as_millis() as u64)
            }
            // Six more tries, after 1340 ms doubled from the first one on and up to 255 ms more; 30 s at most, 72 s in all.
            Self::AzureIdentity => {
                let wait = (1340 << tries.min(8)).min(30_000) + random.below(256);
                (tries <= 6 && elapsed + wait <= 72_000).then_some(wait)
            }
            // Three tries in all.
            Self::MsalGo => (tries < 3).then_some(1000),
            Self::MsalPython => None,
            // Three more tries after 1, 2 and 4 s.
            Self::MsalNet => (tries <= 3).then_some(500 << tries),
        }
    }

    /// From when on the next call tries again, after a request was given up at `now`; `failures` were given up in a row
    /// before it. Milliseconds.
    pub(crate) fn next_call_after(self, now: u64, failures: u32, expires: u64, random: &mut Random) -> u64 {
        let wait = (BACK_OFF << failures.min(8)).min(LONGEST_BACK_OFF);
        let spread = match self {
            Self::Ours | Self::OursBroker => random.below(wait / 2 + 1),
            Self::OursNoJitter => 0,
            // MSAL Python repeats a failure for five seconds without asking, which is less than the time between calls.
            Self::AzureIdentity | Self::MsalGo | Self::MsalPython | Self::MsalNet => return now,
        };
        // Who has no valid token any more does not wait for the end of a back-off.
        (now + wait + spread).min(expires.max(now))
    }

    /// Whether calls wait for a lock while one of them is trying: the next in line then asks at once.
    pub(crate) fn queues_calls(self) -> bool {
        self == Self::AzureIdentity
    }
}

fn ours(tries: u32, random: u64) -> Option<u64> {
    (tries < IMDS.attempts).then(|| IMDS.delay(tries, random).as_millis() as u64)
}
