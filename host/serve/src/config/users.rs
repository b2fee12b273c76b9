//! The users of this machine, by name.

use std::fs;

/// Where they are, on every Unix. Users of directory services are elsewhere, and can be written by number.
const FILE: &str = "/etc/passwd";

/// The number of a user of this machine.
pub(super) fn of_this_machine(name: &str) -> Option<u32> {
    number(&fs::read_to_string(FILE).ok()?, name)
}

/// The number of a user, by lines as `passwd(5)` has them.
fn number(lines: &str, name: &str) -> Option<u32> {
    lines.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_named = fields.next() == Some(name) && !name.is_empty();
        let number = fields.nth(1);
        is_named.then(|| number?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let lines = "# users\nroot:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/:\nbroken:x\n\n::7::\n";
        for (name, expected) in [
            ("root", Some(0)),
            ("www-data", Some(33)),
            ("www", None),
            ("broken", None),
            ("# users", None),
            ("", None),
            ("0", None),
        ] {
            assert_eq!(number(lines, name), expected, "{name:?}");
        }
    }
}
