//! The herd: many processes that start together, and a metadata service that takes few requests.

use crate::client::Client;
use crate::installed;
use crate::platform::{ANY, Configuration, Protocol, SECRET, claims};
use crate::support::emulated::Emulated;
use crate::support::served::Served;
use managed_identity_emulator::RateLimit;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

const PROCESSES: usize = 64;
const CALLS: usize = 200;
const AUDIENCES: [&str; 4] = [
    "https://vault.azure.net",
    "https://storage.azure.com",
    "https://management.azure.com",
    "https://graph.microsoft.com",
];

/// What the documentation of the metadata service says that it takes.
const LIMIT: RateLimit = RateLimit {
    requests_per_second: 20,
    concurrent: 5,
};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/clients/programs/herd.py");

#[test]
fn sixty_four_processes_need_one_request_for_each_audience() {
    let platform = Emulated::start();
    platform.configure(|settings| settings.rate_limit = Some(LIMIT));
    let configuration = Configuration::granting(ANY, &format!("{AUDIENCES:?}"), "[\"platform-default\"]");
    let served = configuration.serve(&platform);
    let protocol = Protocol::Imds;
    let output = installed::python(Client::AzureIdentityPython)
        .arg(PROGRAM)
        .args([PROCESSES, CALLS].map(|number| number.to_string()))
        .args(AUDIENCES)
        .env_clear()
        .envs(protocol.environment(served.address(protocol.name()), SECRET))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let herd: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(herd["errors"], json!({}));
    assert_eq!(herd["succeeded"], PROCESSES * CALLS * AUDIENCES.len());
    for audience in AUDIENCES {
        let tokens = herd["tokens"][audience].as_array().unwrap();
        let [token] = tokens.as_slice() else {
            panic!("{} tokens for {audience}", tokens.len());
        };
        assert_eq!(claims(&json!({"access_token": token}))["aud"], audience);
    }
    let requests = platform.requests();
    assert_eq!(requests.len(), AUDIENCES.len(), "{requests:?}");
    assert!(
        requests.iter().all(|request| request.status == Some(200)),
        "{requests:?}"
    );
    assert_eq!(given(&served), PROCESSES * CALLS * AUDIENCES.len());
}

/// How many tokens the server says that it gave, in its metrics.
fn given(served: &Served) -> usize {
    let mut stream = TcpStream::connect(served.address("metrics")).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.lines()
        .filter(|line| line.starts_with("managed_identity_requests_total{") && line.contains("outcome=\"token\""))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap())
        .sum()
}
