//! Sockets of all kinds, and what stands in their way.
#![expect(clippy::unwrap_used, reason = "a test fails where something is not as expected")]

use super::{Inherited, ListenError, Listener};
use crate::config::Address;
use std::io::Read as _;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn bind(address: &Address) -> Result<Listener, ListenError> {
    Listener::bind(address, &mut Inherited::of_process(false))
}

/// A folder of one test, which is gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("managed-identity-serve-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn a_socket_has_its_mode_knows_its_users_and_is_removed_at_the_end() {
    let folder = Folder::new("mode");
    for wanted in [0o600, 0o660, 0o666] {
        let path = folder.path("socket");
        let listener = bind(&Address::Unix(path.clone(), wanted)).unwrap();
        assert_eq!(mode(&path), wanted);
        assert_eq!(listener.address(), format!("unix:{}", path.display()));
        assert_eq!(listener.tcp_address(), None);
        let _client = UnixStream::connect(&path).unwrap();
        let (_, user) = listener.accept().await.unwrap();
        assert_eq!(user, Some(rustix::process::geteuid().as_raw()));
        drop(listener);
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn what_a_dead_server_has_left_is_replaced_and_nothing_else() {
    let folder = Folder::new("stale");
    let path = folder.path("socket");
    let address = Address::Unix(path.clone(), 0o600);

    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let first = bind(&address).unwrap();
    UnixStream::connect(&path).unwrap();

    // Live, and too busy to accept.
    let connected: Vec<_> = (0..10).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert!(matches!(bind(&address), Err(ListenError::SocketInUse { .. })));
    drop(connected);

    // Replaced behind its back: what it finds at its end is not its own.
    std::fs::remove_file(&path).unwrap();
    let second = bind(&address).unwrap();
    drop(first);
    UnixStream::connect(&path).unwrap();
    drop(second);

    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(bind(&address), Err(ListenError::NoSocket { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    let link = folder.path("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(
        bind(&Address::Unix(link, 0o600)),
        Err(ListenError::NoSocket { .. })
    ));
    assert!(matches!(
        bind(&Address::Unix(folder.path("none/socket"), 0o600)),
        Err(ListenError::NoFolder { .. })
    ));
}

#[tokio::test]
async fn a_port_that_is_in_use_is_told_and_one_that_was_used_is_free_at_once() {
    let listener = bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
    let address = listener.tcp_address().unwrap();
    let refused = bind(&Address::Tcp(address)).err().unwrap();
    assert!(matches!(refused, ListenError::InUse { .. }), "{refused}");
    assert!(
        refused.to_string().starts_with(&format!("{address} is in use; ")),
        "{refused}"
    );

    // The server closes first, so that its side of the connection lingers (TIME_WAIT).
    let mut client = TcpStream::connect(address).unwrap();
    let (socket, user) = listener.accept().await.unwrap();
    assert_eq!(user, None);
    drop(socket);
    drop(listener);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    bind(&Address::Tcp(address)).unwrap();

    // Reserved for documentation (RFC 5737), so that no machine has it.
    let elsewhere = bind(&Address::Tcp("192.0.2.1:0".parse().unwrap())).err().unwrap();
    assert!(matches!(elsewhere, ListenError::NoAddress { .. }), "{elsewhere}");
}

/// In a process of its own, which is this test again.
#[test]
#[expect(clippy::print_stderr, reason = "the test that started it reads what was taken")]
fn what_systemd_has_opened_is_taken_by_its_name() {
    const NAME: &str = "listener::tests::what_systemd_has_opened_is_taken_by_its_name";
    const WANTED: &str = "MANAGED_IDENTITY_TEST_SOCKETS";
    if let Ok(wanted) = std::env::var(WANTED) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _guard = runtime.enter();
        let mut inherited = Inherited::of_process(true);
        for name in wanted.split(',') {
            match inherited.take(name) {
                Ok(listener) => eprintln!("TAKEN {name}: {}", listener.address()),
                Err(error) => eprintln!("TAKEN {name}: {error}"),
            }
        }
        return;
    }

    let folder = Folder::new("systemd");
    let path = folder.path("socket");
    let unix = || OwnedFd::from(UnixListener::bind(folder.path("socket")).unwrap());
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let tcp = || OwnedFd::from(tcp.try_clone().unwrap());
    let connection = || OwnedFd::from(TcpStream::connect(address).unwrap());
    let elsewhere = || Stdio::null();
    let at_path = format!("web: unix:{}", path.display());
    let at_port = format!("web: {address}");

    // Sockets, their names, what is asked for, and what comes of it.
    let cases: Vec<(Vec<Stdio>, Option<&str>, &str, Vec<&str>)> = vec![
        (
            vec![tcp().into()],
            Some("web"),
            "web,web",
            vec![&at_port, "another listener has it already"],
        ),
        (
            vec![tcp().into(), unix().into()],
            Some("api:web"),
            "web,none",
            vec![&at_path, "it has passed api, web"],
        ),
        (vec![tcp().into()], None, "web", vec!["it has passed unknown"]),
        (vec![], Some(""), "web", vec!["it has passed none at all"]),
        (
            vec![tcp().into(), tcp().into()],
            Some("web:web"),
            "web",
            vec!["there are several of that name"],
        ),
        (
            vec![connection().into()],
            Some("web"),
            "web",
            vec!["must not have Accept=yes"],
        ),
        (
            vec![elsewhere()],
            Some("web"),
            "web",
            vec!["neither a TCP nor a Unix stream socket"],
        ),
    ];
    for (sockets, names, wanted, expected) in cases {
        // As systemd does it: from the third descriptor on.
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
            .env(WANTED, wanted)
            .env("LISTEN_FDS", sockets.len().to_string())
            .env_remove("LISTEN_PID")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        match names {
            Some(names) => command.env("LISTEN_FDNAMES", names),
            None => command.env_remove("LISTEN_FDNAMES"),
        };
        let mut sockets = sockets.into_iter();
        if let Some(socket) = sockets.next() {
            command.stdin(socket);
        }
        if let Some(socket) = sockets.next() {
            command.stdout(socket);
        }
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let told: Vec<&str> = stderr.lines().filter_map(|line| line.strip_prefix("TAKEN ")).collect();
        assert_eq!(told.len(), expected.len(), "{stderr}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.contains(expected), "{told:?}: {expected:?}");
        }
    }
}

#[test]
fn errors_say_what_to_do() {
    let path = || "/run/x.sock".to_owned();
    let address = "127.0.0.1:80".parse().unwrap();
    for error in [
        ListenError::InUse { address },
        ListenError::NoAddress { address },
        ListenError::PortForbidden { address },
        ListenError::SocketInUse { path: path() },
        ListenError::NoSocket { path: path() },
        ListenError::NoFolder { path: path() },
        ListenError::SocketForbidden { path: path() },
    ] {
        let text = error.to_string();
        let (what, cure) = text.split_once("; ").unwrap();
        assert!(what.contains("127.0.0.1:80") || what.contains("/run/x.sock"), "{text}");
        assert!(
            !cure.is_empty() && !text.contains('\n') && !text.contains("  "),
            "{text}"
        );
    }
}
