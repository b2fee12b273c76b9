//! Policy, connector and header writer agree on where a request goes.

use super::*;

/// A small generator of numbers (xorshift), so that a failure can be repeated.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % below
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.next(from.len())]
    }

    /// `text`, or what a careless or ill-meaning hand makes of it.
    fn bent(&mut self, text: &str, with: &[&str]) -> String {
        let mut text = text.to_owned();
        for _ in 0..self.next(3) {
            let mut at = self.next(text.len() + 1);
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            text.insert_str(at, self.pick(with));
        }
        text
    }
}

#[tokio::test]
async fn what_is_permitted_is_what_the_server_sees() {
    let server = Server::start([Act::ok("{}")]).await;
    let port = server.address.port();
    let endpoint = |host: &str| {
        Endpoint::from_environment(&format!("http://{host}:{port}/a"))
            .unwrap()
            .with_paths_below()
    };
    let policy = EndpointPolicy::from_iter([endpoint("127.0.0.1"), endpoint("name.example")]);
    let resolver = Scripted::new(&["127.0.0.1"]);
    let client = Outbound::with_resolver(policy, OutboundConfig::default(), resolver);

    let hosts = [
        "127.0.0.1",
        "name.example",
        "NAME.example",
        "127.1",
        "2130706433",
        "[::1]",
        "evil.example",
    ];
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let (mut permitted, mut denied) = (0, 0);
    for _ in 0..20_000 {
        let authority = format!("{}:{port}", numbers.pick(&hosts));
        let odd = [
            "@", ":", ".", "%2e", "\\", "/", "#", "?", "0", "x", "[", "]", " ", "\r\n", "\u{3002}", "a@",
        ];
        let authority = if numbers.next(2) == 0 {
            authority
        } else {
            numbers.bent(&authority, &odd)
        };
        let odd = [
            "/", "//", ".", "..", "/..", "/./", "%2f", "%2e", "%", "\\", ";", "@", ":", "?", "#", "a", " ", "\n",
            "\u{e9}", "http://",
        ];
        let path = numbers.pick(&["/a", "/a/b", "/a?b=c", "/a/b?c=d&e", "/b", ""]);
        let path = numbers.bent(path, &odd);
        let scheme = numbers.pick(&["http", "http", "http", "HTTP", "https", "ftp"]);
        let parts = http::uri::Builder::new()
            .scheme(scheme)
            .authority(authority.as_str())
            .path_and_query(path.as_str());
        let Ok(uri) = parts.build() else { continue };
        let Ok(target) = client.policy().check(&Method::GET, &uri) else {
            denied += 1;
            continue;
        };
        permitted += 1;

        // Another parser, given the text as it was, comes to the same place.
        let text = format!("{scheme}://{authority}{path}");
        let other = url::Url::parse(&text).unwrap();
        assert_eq!(other.host_str(), target.uri().host(), "{text:?}");
        assert_eq!(other.port_or_known_default(), Some(target.origin().port()), "{text:?}");
        assert_eq!(
            (other.path(), other.query()),
            (target.uri().path(), target.uri().query()),
            "{text:?}"
        );

        // So does the server.
        let before = server.requests().len();
        let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
        whole(client.send(request, RequestOptions::default()).await.unwrap())
            .await
            .unwrap();
        let line = target.uri().path_and_query().unwrap();
        let host = target.uri().authority().unwrap();
        let seen = server.requests().split_off(before);
        assert_eq!(
            seen,
            [format!("GET {line} HTTP/1.1\r\nhost: {host}\r\n\r\n")],
            "{text:?}"
        );
        assert!(line.path() == "/a" || line.path().starts_with("/a/"), "{text:?}");
    }
    assert!(
        permitted > 500 && denied > 5000,
        "{permitted} permitted, {denied} denied"
    );
}
