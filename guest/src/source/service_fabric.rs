//! Azure Service Fabric, protocol version 2019-07-01-preview.
//!
//! Protocol, from Microsoft's "How to leverage a Service Fabric application's managed identity to access Azure services":
//! 1. The platform sets `IDENTITY_ENDPOINT`, an `https` address on the cluster's network, `IDENTITY_HEADER`, a secret, and
//!    `IDENTITY_SERVER_THUMBPRINT`, the SHA-1 digest of the endpoint's self-signed certificate.
//! 2. The connection is trusted if the certificate has that digest, and for no other reason. This is the host's work: a
//!    host that cannot pin a certificate refuses the self-signed one, so that nothing is sent.
//! 3. `GET $IDENTITY_ENDPOINT?api-version=2019-07-01-preview&resource=…` with the header `Secret: $IDENTITY_HEADER`.
//! 4. The identity of an application stands in its manifest. A request cannot choose another, and a reply does not say for
//!    which one it is.
//! 5. `xms_cc` lists what the client can do; `cp1` stands for claims challenges. `token_sha256_to_refresh` is the SHA-256
//!    digest of a token that was revoked, so that the platform's own cache does not return it.
//! 6. Errors are `{"error":{"correlationId":"…","code":"…","message":"…"}}`. 404 is not to be tried again.

use super::{Ask, Detection, Source, header_secret, not_configured, unsupported};
use crate::endpoint::Endpoint;
use crate::environment::Environment;
use crate::error::{Cause, Error};
use crate::platform::HttpRequest;
use crate::request::Identity;
use crate::retry::{LOCAL_SERVICE, RetryPolicy};
use crate::secret::Secret;

const API_VERSION: &str = "2019-07-01-preview";
const NAME: &str = "service-fabric";

/// What a client can do that handles claims challenges (Microsoft identity platform, "Client capabilities").
const CAPABILITIES: &str = "cp1";

struct ServiceFabric {
    endpoint: Endpoint,
    header: Secret,
    #[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "the host pins the certificate"))]
    thumbprint: [u8; 20],
}

pub(super) fn detect(environment: &Environment) -> Detection {
    let variables = ["IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IDENTITY_SERVER_THUMBPRINT"];
    let [Some(endpoint), Some(header), Some(digest)] = variables.map(|name| environment.get(name)) else {
        return Detection::No(
            "Service Fabric: no, it would need IDENTITY_ENDPOINT, IDENTITY_HEADER and IDENTITY_SERVER_THUMBPRINT."
                .to_owned(),
        );
    };
    let source = || {
        let endpoint = Endpoint::parse("IDENTITY_ENDPOINT", endpoint)?;
        if !endpoint.is_https() {
            return Err(not_configured(
                "The environment variable IDENTITY_ENDPOINT has the scheme http, and Service Fabric's endpoint, whose \
                 certificate IDENTITY_SERVER_THUMBPRINT names, has https. Nothing was sent. Set it to what the platform \
                 gave.",
            ));
        }
        let source: Box<dyn Source> = Box::new(ServiceFabric {
            endpoint,
            header: header_secret("IDENTITY_HEADER", header)?,
            thumbprint: thumbprint(digest)?,
        });
        Ok(source)
    };
    Detection::announced(
        source(),
        NAME,
        "IDENTITY_ENDPOINT, IDENTITY_HEADER and IDENTITY_SERVER_THUMBPRINT announce Service Fabric.",
    )
}

/// A SHA-1 digest in hexadecimal. Certificate tools put colons or spaces between the bytes.
fn thumbprint(text: &str) -> Result<[u8; 20], Error> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|character| !matches!(character, ':' | ' '))
        .map(|character| character.to_digit(16).map(|digit| digit as u8))
        .collect();
    let mut digest = [0; 20];
    match digits {
        Some(digits) if digits.len() == 40 => {
            for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
                *byte = pair[0] << 4 | pair[1];
            }
            Ok(digest)
        }
        _ => Err(not_configured(
            "The environment variable IDENTITY_SERVER_THUMBPRINT is not the SHA-1 digest of a certificate, which has 40 \
             hexadecimal digits. Nothing was sent. Set it to what the platform gave.",
        )),
    }
}

impl Source for ServiceFabric {
    fn name(&self) -> &'static str {
        NAME
    }

    fn endpoint(&self) -> String {
        self.endpoint.to_string()
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn needs(&self) -> super::Needs {
        super::Needs {
            trust: super::Trust::Thumbprint(self.thumbprint),
            ..super::Needs::of(self.endpoint())
        }
    }

    fn check(&self, identity: &Identity) -> Result<(), Error> {
        match identity {
            Identity::PlatformDefault | Identity::SystemAssigned => Ok(()),
            _ => Err(unsupported(
                "Service Fabric takes an application's identity from its manifest, and a request cannot select another. \
                 Ask for the platform's default identity, and unset AZURE_CLIENT_ID if it is set.",
            )),
        }
    }

    fn request(&self, ask: Ask<'_>, _: Option<&Secret>) -> HttpRequest {
        let mut query = vec![("api-version", API_VERSION), ("resource", ask.audience.resource())];
        if ask.claims.is_some() || ask.revoked.is_some() {
            query.push(("xms_cc", CAPABILITIES));
        }
        if let Some(digest) = ask.revoked {
            query.push(("token_sha256_to_refresh", digest));
        }
        self.endpoint.get(&query, vec![("secret", self.header.clone())])
    }

    fn retry_policy(&self) -> &'static RetryPolicy {
        &LOCAL_SERVICE
    }

    fn advice(&self, cause: Cause, replied: bool) -> Option<&'static str> {
        match cause {
            Cause::EndpointIntercepted if !replied => Some(
                "Its certificate has to be the one that IDENTITY_SERVER_THUMBPRINT names: restart the service so that the \
                 platform sets both anew, and look for whatever else answers at this address.",
            ),
            Cause::IdentityNotFound => Some("Declare the identity in the application's manifest, and assign it."),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbprint_is_forty_hexadecimal_digits_however_they_are_grouped() {
        let plain = "00112233445566778899AABBCCDDEEFF01234567";
        let expected = thumbprint(plain).expect("a digest");
        assert_eq!((expected[1], expected[19]), (0x11, 0x67));
        let grouped = "00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:01:23:45:67";
        assert_eq!(thumbprint(grouped), Ok(expected));
        assert_eq!(thumbprint(&grouped.replace(':', " ")), Ok(expected));
        for bad in [
            "",
            "00",
            &plain[1..],
            &format!("{plain}0"),
            &plain.replace('A', "g"),
            "\u{e9}",
        ] {
            assert_eq!(
                thumbprint(bad).map_err(|error| error.cause),
                Err(Cause::NotConfigured),
                "{bad}"
            );
        }
    }
}
