//! What is given arrives, and how a plugin ends is told.

use super::*;
use crate::support::plug::plug;
use managed_identity_host::plugin::needs_async;
use managed_identity_host::{EMBEDDED_0_2, EMBEDDED_0_3};
use managed_identity_test_guests::CLIENT;
use wasmtime_wasi::FsPerms;

#[tokio::test]
async fn what_is_granted_is_given() {
    let emulated = emulator();
    let identity = &emulated.identities().user_assigned[0];
    let client = format!("client:{}", identity.client_id);
    let of_client = format!("ok {} for {VAULT} from app-service", identity.client_id);
    let of_system = format!("ok {SYSTEM} for {VAULT} from app-service");
    for (wasi, bytes) in PLUGINS {
        let gate = gate(
            &emulated,
            Policy::default().with(Caller::new("backup"), tokens([VAULT])),
        );
        let plugin = engine(wasi).build().unwrap().load(bytes).unwrap();
        let orders: &[(&[&str], &str)] = &[
            (&["token", VAULT], &of_system),
            (&["token", VAULT, &client], &of_client),
            (&["token", VAULT, "system", r#"{"access_token":{}}"#], &of_system),
            (&["describe"], "ok app-service"),
            (&["decode", "e30.eyJhdWQiOiJ4In0.e30"], r#"ok {"aud":"x"}"#),
            (&["tokens", "3", "30000", VAULT], "ok 3 times"),
        ];
        for (words, expected) in orders {
            let line = line(order(&plugin, &gate, "backup", words)).await.unwrap();
            assert_eq!(line, *expected, "{wasi} {words:?}");
        }
        let other = order(&plugin, &gate, "backup", &["token", "https://management.azure.com"]);
        let refusal = line(other).await.unwrap();
        assert!(refusal.starts_with("denied "), "{wasi}: {refusal}");
    }
}

#[tokio::test]
async fn a_forgotten_token_is_asked_for_again() {
    let emulated = emulator();
    for (wasi, bytes) in PLUGINS {
        let gate = gate(
            &emulated,
            Policy::default().with(Caller::new("backup"), tokens([VAULT])),
        );
        let plugin = engine(wasi).build().unwrap().load(bytes).unwrap();
        let before = emulated.stats().requests;
        for (words, requests) in [
            (["token", VAULT], 1),
            (["token", VAULT], 1),
            (["forget", VAULT], 1),
            (["token", VAULT], 2),
        ] {
            line(order(&plugin, &gate, "backup", &words)).await.unwrap();
            assert_eq!(emulated.stats().requests - before, requests, "{wasi} {words:?}");
        }
    }
}

#[tokio::test]
async fn arguments_variables_and_directories_arrive() {
    let emulated = emulator();
    let gate = gate(&emulated, Policy::default());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("given");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("note"), "hello").unwrap();
    for (wasi, bytes) in PLUGINS {
        let plugin = engine(wasi).build().unwrap().load(bytes).unwrap();
        for (words, expected) in [
            (["environment", ""], "ok LANG=C TZ=UTC"),
            (["files", ""], "ok /data"),
            (["read", "note"], "ok hello"),
        ] {
            let command = order(&plugin, &gate, "nobody", &words)
                .env("TZ", "UTC")
                .env("LANG", "C")
                .directory(&folder, "/data", FsPerms::ReadOnly);
            assert_eq!(line(command).await.unwrap(), expected, "{wasi} {words:?}");
        }
        let outside = order(&plugin, &gate, "nobody", &["read", "../given/note"]);
        let outside = line(outside.directory(&folder, "/data", FsPerms::ReadOnly))
            .await
            .unwrap();
        assert!(outside.starts_with("refused open"), "{wasi}: {outside}");
        let missing =
            order(&plugin, &gate, "nobody", &["files"]).directory("/no/such/place", "/data", FsPerms::ReadOnly);
        assert!(
            matches!(missing.run().await, Err(PluginError::Directory { .. })),
            "{wasi}"
        );
    }
}

#[tokio::test]
async fn how_a_plugin_ends_is_told() {
    let emulated = emulator();
    let gate = gate(&emulated, Policy::default());
    for (wasi, bytes) in PLUGINS {
        let plugin = engine(wasi).build().unwrap().load(bytes).unwrap();
        for (words, code) in [
            (["exit", "0"], 0),
            (["exit", "7"], 7),
            (["fail", ""], 1),
            (["files", ""], 0),
        ] {
            let outcome = order(&plugin, &gate, "nobody", &words).run().await.unwrap();
            assert_eq!(outcome, PluginOutcome::Exited(code), "{wasi} {words:?}");
        }
        let error = order(&plugin, &gate, "nobody", &["trap"]).run().await.unwrap_err();
        assert!(
            matches!(&error, PluginError::Trap(reason) if reason.contains("unreachable")),
            "{wasi}: {error}"
        );
    }
}

#[tokio::test]
async fn a_component_of_the_client_world_says_how_it_went() {
    let emulated = emulator();
    let gate = gate(
        &emulated,
        Policy::default().with(Caller::new("backup"), tokens([VAULT])),
    );
    for wasi in ["0.2", "0.3"] {
        let plugin = engine(wasi).build().unwrap().load(CLIENT).unwrap();
        let granted = plugin.command(gate.caller(Caller::new("backup"))).run().await.unwrap();
        assert!(
            matches!(&granted, PluginOutcome::Finished(text) if text.starts_with("a token from app-service")),
            "{granted:?}"
        );
        let refused = plugin.command(gate.caller(Caller::new("nobody"))).run().await.unwrap();
        assert!(
            matches!(&refused, PluginOutcome::Failed(text) if text.contains("nobody")),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_composition_is_run_as_a_whole() {
    let emulated = emulator();
    // Its own provider is in it, which is given nothing to find an endpoint by, and may not reach one.
    let gate = gate(
        &emulated,
        Policy::default().with(Caller::new("composed"), tokens([VAULT])),
    );
    let composed = plug(CLIENT, EMBEDDED_0_2).unwrap();
    for wasi in ["0.2", "0.3"] {
        let plugin = engine(wasi).build().unwrap().load(&composed).unwrap();
        let command = plugin
            .command(gate.caller(Caller::new("composed")))
            .env(
                "IDENTITY_ENDPOINT",
                &emulated.environment_for(Source::AppService)["IDENTITY_ENDPOINT"],
            )
            .env("IDENTITY_HEADER", "secret");
        let outcome = command.run().await.unwrap();
        assert!(matches!(&outcome, PluginOutcome::Failed(_)), "{wasi}: {outcome:?}");
    }
    let plugin = engine("0.3")
        .build()
        .unwrap()
        .load(&plug(PLUGIN_0_3, EMBEDDED_0_3).unwrap())
        .unwrap();
    let line = line(order(&plugin, &gate, "composed", &["token", VAULT]))
        .await
        .unwrap();
    assert!(line.starts_with("denied http://169.254.169.254/"), "{line}");
    assert_eq!(emulated.requests().len(), 0);
}

#[test]
fn what_a_plugin_needs_is_told_before_it_runs() {
    for (bytes, needed) in [
        (PLUGIN_0_2, false),
        (PLUGIN_0_3, true),
        (CLIENT, false),
        (EMBEDDED_0_2, false),
        (EMBEDDED_0_3, true),
    ] {
        assert_eq!(needs_async(bytes).unwrap(), needed);
    }
    let without = engine("0.2").build().unwrap();
    let with = engine("0.3").build().unwrap();
    let error = without.load(PLUGIN_0_3).unwrap_err();
    assert!(matches!(error, PluginError::NeedsAsync) && error.to_string().contains("with_async(true)"));
    for engine in [&without, &with] {
        assert!(engine.load(PLUGIN_0_2).is_ok());
        // A provider is none.
        assert!(matches!(engine.load(EMBEDDED_0_2), Err(PluginError::NotAPlugin)));
    }
    assert!(matches!(with.load(EMBEDDED_0_3), Err(PluginError::NotAPlugin)));
}

#[tokio::test]
async fn a_directory_is_written_to_only_if_that_is_given() {
    let emulated = emulator();
    let gate = gate(&emulated, Policy::default());
    for (wasi, bytes) in PLUGINS {
        let plugin = engine(wasi).build().unwrap().load(bytes).unwrap();
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("written-{wasi}"));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        // More than the engine takes at once.
        let words = ["write", "large", "3000000"];
        let read_only = order(&plugin, &gate, "nobody", &words).directory(&folder, "/data", FsPerms::ReadOnly);
        let refused = line(read_only).await.unwrap();
        assert!(refused.starts_with("refused open"), "{wasi}: {refused}");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "{wasi}");
        let writable = order(&plugin, &gate, "nobody", &words).directory(&folder, "/data", FsPerms::ReadWrite);
        assert_eq!(line(writable).await.unwrap(), "ok 3000000", "{wasi}");
        assert_eq!(
            std::fs::metadata(folder.join("large")).unwrap().len(),
            3_000_000,
            "{wasi}"
        );
    }
}
