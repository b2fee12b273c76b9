//! `managed-identity run`, as its users meet it.

use super::*;
use crate::support::program::{Outcome, finish, run as run_program};
use managed_identity_host::EMBEDDED_0_2;
use managed_identity_test_guests::CLIENT;
use std::fs;
use std::sync::LazyLock;

/// Where the plugins are, by their names without `.wasm`.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("plugins");
    fs::create_dir_all(&folder).unwrap();
    for (name, bytes) in [
        ("backup-0-2", PLUGIN_0_2),
        ("backup-0-3", PLUGIN_0_3),
        ("client", CLIENT),
        ("provider", EMBEDDED_0_2),
        ("text", b"not a component"),
        ("module", b"\0asm\x01\0\0\0"),
    ] {
        // Each test may be a process of its own, and none may read what another one has half written.
        let unfinished = folder.join(format!("{name}.{}", std::process::id()));
        fs::write(&unfinished, bytes).unwrap();
        fs::rename(&unfinished, folder.join(format!("{name}.wasm"))).unwrap();
    }
    folder
});

/// The command plugin for both versions of WASI.
const COMMANDS: [&str; 2] = ["backup-0-2", "backup-0-3"];

/// Runs a plugin with these options and arguments.
fn run(emulated: &Emulated, options: &[&str], plugin: &str, arguments: &[&str]) -> Outcome {
    let file = FOLDER.join(format!("{plugin}.wasm"));
    let all = [&["run"], options, &[file.to_str().unwrap()], arguments].concat();
    run_program(emulated.environment_for(Source::AppService), &all)
}

/// The one line on standard error of a plugin that could not be run or did not end well.
fn failure(outcome: &Outcome) -> &str {
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(outcome.stdout, "", "{outcome:?}");
    let line = outcome.stderr.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{line}");
    line.strip_prefix("error: ").unwrap()
}

#[test]
fn a_plugin_without_grants_is_denied_by_its_name() {
    let emulated = Emulated::start();
    for plugin in COMMANDS {
        for (options, name) in [(&[][..], plugin), (&["--caller", "nightly"], "nightly")] {
            let outcome = run(&emulated, options, plugin, &["token", VAULT]);
            let line = outcome.success();
            assert!(
                line.starts_with("denied ") && line.contains(&format!("{name:?}")),
                "{line}"
            );
        }
        for (words, expected) in [(["environment"], "ok"), (["files"], "ok")] {
            assert_eq!(
                run(&emulated, &[], plugin, &words).success(),
                expected,
                "{plugin} {words:?}"
            );
        }
    }
    assert_eq!(emulated.stats().requests, 0);
}

#[test]
fn a_plugin_gets_what_it_is_granted() {
    let emulated = Emulated::start();
    for plugin in COMMANDS {
        for wasi in ["0.2", "0.3"] {
            let options = ["--allow", "https://a.example", "--allow", VAULT, "--wasi", wasi];
            let outcome = run(&emulated, &options, plugin, &["token", VAULT]);
            assert_eq!(outcome.success(), format!("ok {SYSTEM} for {VAULT} from app-service"));
            let other = run(&emulated, &options, plugin, &["token", "https://b.example"]);
            assert!(other.success().starts_with("denied "), "{other:?}");
            // The platform's default identity, and no other.
            let other = run(
                &emulated,
                &options,
                plugin,
                &["token", VAULT, &format!("client:{SYSTEM}")],
            );
            assert!(other.success().starts_with("denied "), "{other:?}");
        }
    }
}

#[test]
fn arguments_and_variables_are_the_plugins_own() {
    let emulated = Emulated::start();
    for plugin in COMMANDS {
        let outcome = run(&emulated, &[], plugin, &["arguments", "--allow", "-x", "--", "--help"]);
        let expected = format!("ok -- --allow --help -x arguments {plugin}.wasm");
        assert_eq!(outcome.success(), expected);
        let options = ["--env", "B=1=2", "--env", "A="];
        assert_eq!(
            run(&emulated, &options, plugin, &["environment"]).success(),
            "ok A= B=1=2"
        );
    }
}

#[test]
fn the_exit_code_is_the_plugins() {
    let emulated = Emulated::start();
    for plugin in COMMANDS {
        for (words, code) in [
            (["exit", "0"], 0),
            (["exit", "7"], 7),
            (["exit", "255"], 255),
            (["fail", ""], 1),
        ] {
            let outcome = run(&emulated, &[], plugin, &words);
            assert_eq!(
                (outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()),
                (Some(code), "", ""),
                "{plugin} {words:?}"
            );
        }
    }
}

#[test]
fn a_component_of_the_client_world_prints_its_text() {
    let emulated = Emulated::start();
    let outcome = run(&emulated, &["--allow", VAULT], "client", &[]);
    assert!(outcome.success().starts_with("a token from app-service"), "{outcome:?}");
    let outcome = run(&emulated, &[], "client", &[]);
    assert!(failure(&outcome).contains("\"client\""), "{outcome:?}");
}

#[test]
fn a_plugin_that_is_stopped_or_fails_is_told_in_one_sentence() {
    let emulated = Emulated::start();
    for plugin in COMMANDS {
        for (options, order, said) in [
            (&["--timeout", "300ms"][..], "sleep", &["300ms", "--timeout"][..]),
            (&["--timeout", "300ms"], "spin", &["300ms", "--timeout"]),
            (&["--memory", "16M"], "grow", &["16777216 bytes", "--memory"]),
            (&[], "recurse", &["stack"]),
            (&[], "trap", &["the plugin failed", "unreachable"]),
        ] {
            let outcome = run(&emulated, options, plugin, &[order]);
            let line = failure(&outcome);
            for said in said {
                assert!(line.contains(said), "{plugin} {order}: {line}");
            }
        }
    }
}

#[test]
fn what_is_no_plugin_is_refused_with_its_reason() {
    let emulated = Emulated::start();
    for (plugin, said) in [
        ("missing", "missing.wasm cannot be read"),
        ("text", "not a WebAssembly component"),
        ("module", "wasm-tools component new"),
        ("provider", "exports neither"),
    ] {
        let outcome = run(&emulated, &[], plugin, &[]);
        let line = failure(&outcome);
        assert!(
            line.contains(said) && line.contains(&format!("{plugin}.wasm")),
            "{line}"
        );
    }
    let outcome = run(&emulated, &["--grants", "/no/such/file.toml"], "client", &[]);
    assert!(failure(&outcome).contains("/no/such/file.toml"), "{outcome:?}");
}

#[test]
fn options_that_make_no_sense_are_usage_errors() {
    let emulated = Emulated::start();
    for options in [
        &["--authorize", "vault.example"][..],
        &["--authorize", "http://vault.example=https://vault.example"],
        &["--env", "A"],
        &["--memory", "much"],
        &["--timeout", "soon"],
        &["--grants", "grants.toml", "--allow", VAULT],
    ] {
        let outcome = run(&emulated, options, "client", &[]);
        assert_eq!(outcome.code, Some(2), "{options:?}: {outcome:?}");
    }
    assert_eq!(run_program::<&str, &str>([], &["run"]).code, Some(2));
}

#[test]
fn what_is_piped_in_and_out_is_the_plugins_business() {
    let emulated = Emulated::start();
    for plugin in COMMANDS {
        let file = FOLDER.join(format!("{plugin}.wasm"));
        let arguments = ["run", file.to_str().unwrap(), "echo"];
        let command = support::program::command(emulated.environment_for(Source::AppService), &arguments);
        assert_eq!(finish(command, "one\ntwo").success(), "ok one\ntwo");
    }
}

#[test]
fn the_help_has_examples() {
    let outcome = run_program::<&str, &str>([], &["run", "--help"]);
    assert!(
        outcome.success().contains("Examples:\n  managed-identity run "),
        "{outcome:?}"
    );
}

#[test]
fn a_policy_in_a_file_says_what_a_plugin_gets_and_the_audit_trail_what_it_got() {
    let emulated = Emulated::start();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let grants = folder.join("run-grants.toml");
    fs::write(
        &grants,
        format!(
            "[[caller.nightly.token]]\naudiences = [{VAULT:?}]\n[[caller.backup-0-2.http]]\nhosts = [\"a.example\"]\n"
        ),
    )
    .unwrap();
    let grants = ["--grants", grants.to_str().unwrap()];
    for plugin in COMMANDS {
        let trail = folder.join(format!("run-audit-{plugin}"));
        let _ = fs::remove_file(&trail);
        let options = [
            &grants[..],
            &["--caller", "nightly", "--audit", trail.to_str().unwrap()],
        ]
        .concat();
        let token = run(&emulated, &options, plugin, &["token", VAULT]);
        assert!(token.success().starts_with("ok "), "{token:?}");
        let other = run(&emulated, &options, plugin, &["token", "https://other.example"]);
        assert!(other.success().starts_with("denied "), "{other:?}");
        let lines = fs::read_to_string(&trail).unwrap();
        let events: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let decided: Vec<_> = events
            .iter()
            .map(|event| {
                (
                    event["caller"].as_str(),
                    event["decision"].as_str(),
                    event["audience"].as_str(),
                )
            })
            .collect();
        assert_eq!(
            decided,
            [
                (Some("nightly"), Some("allowed"), Some(VAULT)),
                (Some("nightly"), Some("denied"), Some("https://other.example"))
            ]
        );
        assert!(
            events[0]["fingerprint"]
                .as_str()
                .is_some_and(|digits| digits.len() == 8)
        );
        assert!(!lines.contains("eyJ"), "{lines}");
    }
    let stranger = run(&emulated, &grants, "client", &[]);
    let line = failure(&stranger);
    assert!(
        line.contains("grants nothing to \"client\"") && line.contains("nightly"),
        "{line}"
    );

    let empty = folder.join("run-empty.toml");
    fs::write(&empty, "").unwrap();
    let outcome = run(&emulated, &["--grants", empty.to_str().unwrap()], "client", &[]);
    assert!(failure(&outcome).ends_with("grants nothing to anybody"), "{outcome:?}");

    let broken = folder.join("run-broken.toml");
    fs::write(
        &broken,
        "[[caller.nightly.token]]\naudience = 'https://vault.azure.net'\n",
    )
    .unwrap();
    let outcome = run(&emulated, &["--grants", broken.to_str().unwrap()], "client", &[]);
    let line = failure(&outcome);
    assert!(
        line.contains("line 2") && line.contains("`audience`") && line.contains("`audiences`"),
        "{line}"
    );
}

#[test]
fn the_time_of_a_plugin_is_over_also_when_nobody_reads_what_it_prints() {
    let emulated = Emulated::start();
    for plugin in COMMANDS {
        let file = FOLDER.join(format!("{plugin}.wasm"));
        let arguments = ["run", "--timeout", "300ms", file.to_str().unwrap(), "print"];
        let mut command = support::program::command(emulated.environment_for(Source::AppService), &arguments);
        // Open to its end, and never read.
        let (reader, writer) = std::io::pipe().unwrap();
        let output = command
            .stdout(writer)
            .stderr(std::process::Stdio::piped())
            .output()
            .unwrap();
        drop(reader);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("stopped at its deadline") && said.contains("--timeout"),
            "{said}"
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_plugin_runs_where_address_space_is_short() {
    let emulated = Emulated::start();
    for plugin in COMMANDS {
        let file = FOLDER.join(format!("{plugin}.wasm"));
        let arguments = ["run", "--allow", VAULT, file.to_str().unwrap(), "token", VAULT];
        let program = support::program::command(emulated.environment_for(Source::AppService), &arguments);
        let mut command = std::process::Command::new("sh");
        // Two gigabytes, where one memory would reserve four by default.
        command.args(["-c", "ulimit -v 2000000 && exec \"$0\" \"$@\""]);
        command.arg(program.get_program()).args(program.get_args()).env_clear();
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let outcome = command.output().unwrap();
        let said = String::from_utf8_lossy(&outcome.stderr);
        assert!(outcome.status.success() && outcome.stdout.starts_with(b"ok "), "{said}");
    }
}
