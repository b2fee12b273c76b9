//! What is spoken.

use crate::exchange;
use crate::support::emulated::Emulated;
use crate::support::served::Served;
use managed_identity_emulator::Source;

#[test]
fn a_program_that_speaks_app_service_gets_a_token() {
    let platform = Emulated::start();
    let arguments = ["--app-service", "127.0.0.1:0", "--allow", "https://vault.azure.net"];
    let served = Served::start(&platform, Source::AppService, &arguments, &["app-service"]);
    let reply = exchange(
        served.address("app-service"),
        "GET /msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\n\
         Host: localhost\r\nX-IDENTITY-HEADER: any\r\nConnection: close\r\n\r\n",
    );
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
    assert!(reply.contains("\"access_token\":\"ey"), "{reply}");
}
