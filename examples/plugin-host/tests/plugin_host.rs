//! The example host, run as a newcomer would.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::Path;
use std::process::{Command, Output};
use std::{env, fs, process};

fn plugin_host(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_plugin-host"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn each_plugin_gets_what_it_is_granted_and_the_host_says_what_that_was() {
    let output = plugin_host(&["--emulate"]);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}{}", text(&output.stderr));
    let (read_secret, who_am_i) = printed.split_once("who-am-i\n").unwrap();
    for line in [
        "| https://127.0.0.1:",
        "/secrets/database-password/",
        ": 28 characters",
        "allowed: authorize-only https://vault.azure.net GET https://127.0.0.1:",
        "(token ",
        "  done\n",
    ] {
        assert!(read_secret.contains(line), "{line:?} is not in:\n{read_secret}");
    }
    for line in [
        "| https://vault.azure.net: object ",
        "is not granted tokens for \"https://management.azure.com\"",
        "allowed: token https://vault.azure.net (token ",
        "denied: token https://management.azure.com\n",
    ] {
        assert!(who_am_i.contains(line), "{line:?} is not in:\n{who_am_i}");
    }
    // The same token for both, and neither it nor the secret is printed.
    let fingerprint = |text: &str| text.split_once("(token ").unwrap().1[..8].to_owned();
    assert_eq!(fingerprint(read_secret), fingerprint(who_am_i));
    assert!(
        !printed.contains("eyJ") && !printed.contains("correct horse"),
        "{printed}"
    );
}

#[test]
fn a_plugin_without_a_grant_is_refused_and_others_are_not() {
    let folder = env::temp_dir().join(format!("managed-identity-plugins-{}", process::id()));
    fs::create_dir_all(&folder).unwrap();
    let shipped = Path::new(env!("PLUGINS"));
    for name in ["who-am-i", "stranger"] {
        fs::copy(shipped.join("who-am-i.wasm"), folder.join(name).with_extension("wasm")).unwrap();
        fs::write(folder.join(name).with_extension("args"), "https://vault.azure.net\n").unwrap();
    }
    fs::write(folder.join("broken.wasm"), "not a component").unwrap();
    let output = plugin_host(&["--emulate", "--plugins", folder.to_str().unwrap()]);
    fs::remove_dir_all(&folder).unwrap();
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{printed}{}", text(&output.stderr));
    for line in [
        "broken\n  could not be run to its end: the plugin is not a WebAssembly component",
        "stranger\n  | https://vault.azure.net: By the host's policy, the caller \"stranger\" is not granted",
        "  denied: token https://vault.azure.net\n  done, with exit code 1\n",
        "who-am-i\n  | https://vault.azure.net: object ",
    ] {
        assert!(printed.contains(line), "{line:?} is not in:\n{printed}");
    }
}

#[test]
fn what_cannot_be_used_is_named_in_one_line() {
    let folder = env!("CARGO_MANIFEST_DIR");
    let grants = format!("{folder}/grants.toml");
    for (arguments, words) in [
        (&["--plugins", "/nowhere/at/all"][..], "/nowhere/at/all cannot be read"),
        (&["--plugins", folder], "has no file NAME.wasm"),
        (&["--grants", "/nowhere/at/all"], "/nowhere/at/all cannot be read"),
        (&["--grants", &format!("{folder}/Cargo.toml")], "line 1"),
        (&["--grants", &grants, "--plugins", folder], "has no file NAME.wasm"),
    ] {
        let output = plugin_host(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(
            said.contains(words) && said.lines().count() == 1,
            "{arguments:?}: {said}"
        );
    }
}
