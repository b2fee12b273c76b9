//! The tokens: their claims, and whether other software can verify them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use managed_identity_emulator::{Emulator, EmulatorConfig, ExpiresIn, ExpiresOn, Identities, SigningKey};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use serde_json::{Value, json};

use crate::client::{app_service, get, imds, try_send};
use crate::{VAULT, emulator, emulator_with};

fn decoded(part: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(part).unwrap()
}

/// Header, claims, signed text and signature.
fn taken_apart(token: &str) -> (Value, Value, &str, Vec<u8>) {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let json = |part| serde_json::from_slice(&decoded(part)).unwrap();
    (json(header), json(claims), signed, decoded(signature))
}

pub(crate) fn claims(reply: &Value) -> Value {
    taken_apart(reply["access_token"].as_str().unwrap()).1
}

/// Follows discovery from the issuer to the key of this name, as a verifier does.
async fn discovered_key(emulator: &Emulator, issuer: &str, key_id: &Value) -> RsaPublicKeyComponents<Vec<u8>> {
    let path = |url: &str| url.strip_prefix(emulator.base_url()).unwrap().to_owned();
    let discovery = format!(
        "{}/.well-known/openid-configuration",
        path(issuer).trim_end_matches('/')
    );
    let configuration = get(emulator, &discovery, &[]).await.json();
    assert_eq!(configuration["issuer"], issuer);
    let key_set = get(emulator, &path(configuration["jwks_uri"].as_str().unwrap()), &[])
        .await
        .json();
    let key = key_set["keys"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["kid"] == *key_id)
        .unwrap();
    assert_eq!(
        (&key["kty"], &key["use"], &key["alg"]),
        (&json!("RSA"), &json!("sig"), &json!("RS256"))
    );
    RsaPublicKeyComponents {
        n: decoded(key["n"].as_str().unwrap()),
        e: decoded(key["e"].as_str().unwrap()),
    }
}

#[tokio::test]
async fn a_verifier_that_follows_discovery_accepts_the_signature() {
    let emulator = emulator();
    for reply in [
        imds(&emulator, VAULT, "").await.json(),
        app_service(&emulator, VAULT, "").await.json(),
    ] {
        let (header, claims, signed, signature) = taken_apart(reply["access_token"].as_str().unwrap());
        assert_eq!((&header["typ"], &header["alg"]), (&json!("JWT"), &json!("RS256")));
        let key = discovered_key(&emulator, claims["iss"].as_str().unwrap(), &header["kid"]).await;
        assert_eq!((key.n.len(), key.e.as_slice()), (256, [1, 0, 1].as_slice()));
        key.verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &signature)
            .unwrap();
        let forged = signed.replacen('.', ".A", 1);
        assert!(
            key.verify(&RSA_PKCS1_2048_8192_SHA256, forged.as_bytes(), &signature)
                .is_err()
        );
    }
}

#[tokio::test]
async fn claims_are_those_of_an_entra_application_token() {
    let emulator = emulator();
    let identities = emulator.identities();
    let user = &identities.user_assigned[0];
    let reply = imds(&emulator, VAULT, &format!("&client_id={}", user.client_id))
        .await
        .json();
    let claims = claims(&reply);
    let issuer = format!("{}/{}/", emulator.base_url(), identities.tenant_id);
    let seconds = |name: &str| reply[name].as_str().unwrap().parse::<i64>().unwrap();
    let token_id = claims["uti"].as_str().unwrap();
    assert_eq!(token_id.len(), 22);
    assert_eq!(
        claims,
        json!({
            "aud": VAULT, "iss": issuer, "idp": issuer,
            "iat": seconds("not_before"), "nbf": seconds("not_before"), "exp": seconds("expires_on"),
            "appid": user.client_id, "appidacr": "2", "idtyp": "app", "oid": user.object_id, "sub": user.object_id,
            "tid": identities.tenant_id, "uti": token_id, "ver": "1.0", "xms_mirid": user.resource_id,
        })
    );
}

#[tokio::test]
async fn roles_of_an_identity_are_claims() {
    let mut identities = Identities::default();
    identities.user_assigned[1].roles = vec!["Reader".to_owned(), "Writer".to_owned()];
    let query = format!("&client_id={}", identities.user_assigned[1].client_id);
    let emulator = emulator_with(identities);
    let reply = app_service(&emulator, VAULT, &query).await.json();
    assert_eq!(claims(&reply)["roles"], json!(["Reader", "Writer"]));
}

#[tokio::test]
async fn every_request_gets_a_new_token() {
    let emulator = emulator();
    let (first, second) = (
        imds(&emulator, VAULT, "").await.json(),
        imds(&emulator, VAULT, "").await.json(),
    );
    assert_ne!(first["access_token"], second["access_token"]);
}

#[tokio::test]
async fn lifetime_clock_and_forms_of_expiry_follow_the_settings() {
    let emulator = emulator();
    let before = claims(&imds(&emulator, VAULT, "").await.json());
    emulator.configure(|settings| {
        settings.token_lifetime_seconds = 60;
        settings.refresh_in = Some(30);
        settings.clock_offset_seconds = -1_000_000_000;
        settings.expires_in = ExpiresIn::Number;
        settings.expires_on = ExpiresOn::Number;
    });
    let answer = imds(&emulator, VAULT, "").await;
    assert!(
        !answer.header("date").unwrap().contains(" 202"),
        "the Date header follows the clock: {answer:?}"
    );
    let reply = answer.json();
    let after = claims(&reply);
    let moved = before["iat"].as_i64().unwrap() - after["iat"].as_i64().unwrap();
    assert!((999_999_000..=1_000_000_000).contains(&moved), "{moved}");
    assert_eq!(after["exp"].as_i64().unwrap() - after["iat"].as_i64().unwrap(), 360);
    assert_eq!((&reply["expires_in"], &reply["refresh_in"]), (&json!(60), &json!(30)));
    assert_eq!(reply["expires_on"], after["exp"]);

    emulator.configure(|settings| settings.expires_on = ExpiresOn::Iso8601);
    let reply = app_service(&emulator, VAULT, "").await.json();
    assert!(
        reply["expires_on"].as_str().unwrap().ends_with(".0000000+00:00"),
        "{reply}"
    );

    emulator.configure(|settings| settings.expires_on = ExpiresOn::Absent);
    assert_eq!(app_service(&emulator, VAULT, "").await.json().get("expires_on"), None);
}

#[tokio::test]
async fn tokens_can_be_expired_already() {
    let emulator = emulator();
    emulator.configure(|settings| settings.token_lifetime_seconds = -10);
    let reply = imds(&emulator, VAULT, "").await.json();
    assert_eq!(reply["expires_in"], "-10");
    let claims = claims(&reply);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["nbf"].as_i64().unwrap(), 290);
}

#[tokio::test]
async fn discovery_is_found_at_the_root_and_only_read() {
    let emulator = emulator();
    let tenant = emulator.identities().tenant_id.clone();
    let at_root = get(&emulator, "/.well-known/openid-configuration", &[]).await.json();
    let of_tenant = get(&emulator, &format!("/{tenant}/.well-known/openid-configuration"), &[])
        .await
        .json();
    assert_eq!(at_root, of_tenant);
    for path in [
        "/contoso/.well-known/openid-configuration",
        "/discovery/keys",
        "/contoso/discovery/keys",
    ] {
        assert_eq!(get(&emulator, path, &[]).await.status, 404, "{path}");
    }
    let answer = try_send(&emulator, "POST", "/.well-known/openid-configuration", &[], "")
        .await
        .unwrap();
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")));
}

#[tokio::test]
async fn keys_differ_between_emulators_unless_one_is_given() {
    let shared = emulator();
    let key_id = |emulator: Value| emulator["keys"][0]["kid"].clone();
    let keys = format!("/{}/discovery/keys", shared.identities().tenant_id);
    let own = Emulator::start(EmulatorConfig::default()).unwrap();
    let (shared_id, own_id) = (
        key_id(get(&shared, &keys, &[]).await.json()),
        key_id(get(&own, &keys, &[]).await.json()),
    );
    assert_ne!(shared_id, own_id);
    assert_eq!(key_id(get(&emulator(), &keys, &[]).await.json()), shared_id);
}

#[test]
fn a_key_prints_its_name_only() {
    let key = SigningKey::generate().unwrap();
    assert_eq!(
        format!("{key:?}"),
        format!("SigningKey {{ key_id: {:?}, .. }}", key.key_id())
    );
}
