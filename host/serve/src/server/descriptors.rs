//! How many files the process may have open: each connection is one.

use crate::telemetry::LOG_TARGET;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files that are no connections: the sockets to the platform, those that are listened on, and what else there is.
const OTHERS: usize = 256;

/// Lets the process have as many files open as it may, and says how many connections there can be: as many as are wanted, or
/// fewer.
pub(super) fn connections(wanted: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        // Some systems have a lower limit than the one that they tell.
        Err(_) => current,
    };
    let Some(files) = current.map(|files| usize::try_from(files).unwrap_or(usize::MAX)) else {
        return wanted;
    };
    let possible = possible(files);
    if possible < wanted {
        tracing::warn!(
            target: LOG_TARGET,
            wanted,
            possible,
            files,
            "there can be fewer connections than configured, because the process may have so few files open; raise \
             LimitNOFILE= or `ulimit -Hn`"
        );
    }
    wanted.min(possible)
}

/// With few files, half of them are for connections.
fn possible(files: usize) -> usize {
    files.saturating_sub(OTHERS).max(files / 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::{connections, possible};

    #[test]
    fn files_are_left_for_what_is_no_connection() {
        for (files, connections) in [(0, 1), (1, 1), (64, 32), (512, 256), (1_024, 768), (65_536, 65_280)] {
            assert_eq!(possible(files), connections, "{files}");
        }
        assert_eq!(connections(1), 1);
    }
}
