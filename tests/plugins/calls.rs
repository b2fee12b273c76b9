//! How calls for tokens go on: side by side, so many at once, and for as long as their time-out says.

use super::*;
use support::server::{Act, Server, token_reply};

/// How many calls of one plugin are under way at once.
const AT_ONCE: usize = 64;

/// A broker of a server behind a policy that grants `https://many.example/0` and so on.
fn gate(server: &Server) -> Gate {
    let many = (0..AT_ONCE + 20).map(|number| format!("https://many.example/{number}"));
    let broker = brokers::broker(brokers::WASI[1], server.app_service("secret"));
    Gate::new(broker, Policy::default().with(Caller::new("backup"), tokens(many)))
}

fn plugin(wasi: usize) -> Plugin {
    let (wasi, bytes) = PLUGINS[wasi];
    engine(wasi).build().unwrap().load(bytes).unwrap()
}

/// Runs an async plugin that asks for so many tokens at once. No request is answered before it has asked for all and so many
/// requests have come.
async fn together(count: usize, requests: usize) -> String {
    let reply = support::server::reply(200, &[], &token_reply("token"));
    let server = Server::always(Act::Gated(reply));
    let gate = gate(&server);
    let output = MemoryOutputPipe::new(OUTPUT);
    let words = ["together", &count.to_string(), "https://many.example"];
    let run = order(&plugin(1), &gate, "backup", &words).stdout(output.clone()).run();
    let release = async {
        while output.contents().is_empty() {
            tokio::task::yield_now().await;
        }
        server.wait_for_requests(requests).await;
        server.release();
    };
    let (outcome, ()) = tokio::join!(run, release);
    assert_eq!(outcome.unwrap(), PluginOutcome::Exited(0));
    String::from_utf8(output.contents().to_vec()).unwrap()
}

#[tokio::test]
async fn calls_of_an_async_plugin_run_side_by_side() {
    assert_eq!(together(3, 3).await, "asked\nok 3 tokens, 0 throttled\n");
}

#[tokio::test]
async fn more_calls_at_once_than_are_served_are_throttled() {
    let expected = format!("asked\nok {AT_ONCE} tokens, 20 throttled\n");
    assert_eq!(together(AT_ONCE + 20, 1).await, expected);
}

#[tokio::test]
async fn a_call_ends_by_its_time_out() {
    let server = Server::always(Act::Hold(Vec::new()));
    let gate = gate(&server);
    for wasi in 0..PLUGINS.len() {
        let words = ["tokens", "1", "300", "https://many.example/0"];
        let line = line(order(&plugin(wasi), &gate, "backup", &words)).await.unwrap();
        assert!(line.starts_with("deadline-exceeded "), "{line}");
    }
}
