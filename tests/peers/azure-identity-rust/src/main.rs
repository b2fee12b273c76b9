//! Holds azure_identity for Rust against the conformance cases. ../README.md says what the adapters do and do not do.

use std::{collections::HashMap, env, io, sync::Arc, time::Duration};

use azure_core::credentials::TokenCredential;
use azure_core::http::{AsyncRawResponse, ClientOptions, HttpClient, Request, Transport, Url, new_http_client};
use azure_identity::{
    ClientAssertionCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

/// Nothing listens here. A case that gives no metadata service shall not reach that of the machine it is run on.
const NOWHERE: &str = "http://127.0.0.1:1";

/// The client's own transport, with the fixed address of the metadata service moved: there is no variable for it.
#[derive(Debug)]
struct MovedImds {
    transport: Arc<dyn HttpClient>,
    imds: Url,
}

#[async_trait::async_trait]
impl HttpClient for MovedImds {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        if request.url().host_str() != Some("169.254.169.254") {
            return self.transport.execute_request(request).await;
        }
        let mut moved = request.clone();
        *moved.url_mut() = self.imds.join(&request.path_and_query())?;
        self.transport.execute_request(&moved).await
    }
}

fn client_options() -> Result<ClientOptions, Failure> {
    let imds = set("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|| NOWHERE.to_owned());
    let moved = MovedImds {
        transport: new_http_client(None),
        imds: Url::parse(&imds)?,
    };
    Ok(ClientOptions {
        transport: Some(Transport::new(Arc::new(moved))),
        ..Default::default()
    })
}

fn set(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

/// Whether the environment announces workload identity, and no platform that comes before it.
fn in_workload_identity() -> bool {
    set("AZURE_FEDERATED_TOKEN_FILE").is_some() && set("IDENTITY_ENDPOINT").is_none() && set("MSI_ENDPOINT").is_none()
}

fn new_credential(kind: &str, id: Option<String>) -> Result<Arc<dyn TokenCredential>, Failure> {
    let user_assigned_id = match kind {
        // As the DefaultAzureCredential of the other languages does; this client has no default of its own.
        "platform-default" => set("AZURE_CLIENT_ID").map(UserAssignedId::ClientId),
        "client-id" => id.map(UserAssignedId::ClientId),
        "object-id" => id.map(UserAssignedId::ObjectId),
        "resource-id" => id.map(UserAssignedId::ResourceId),
        _ => None,
    };
    if !in_workload_identity() {
        let options = ManagedIdentityCredentialOptions {
            user_assigned_id,
            client_options: client_options()?,
        };
        return Ok(ManagedIdentityCredential::new(Some(options))?);
    }
    let client_id = match user_assigned_id {
        Some(UserAssignedId::ClientId(id)) => Some(id),
        None if kind == "platform-default" => None,
        _ => return Err(format!("WorkloadIdentityCredential has no option for the identity {kind}").into()),
    };
    let credential_options = ClientAssertionCredentialOptions {
        client_options: client_options()?,
    };
    let options = WorkloadIdentityCredentialOptions {
        client_id,
        credential_options,
        ..Default::default()
    };
    Ok(WorkloadIdentityCredential::new(Some(options))?)
}

/// The scope that stands for an audience. A case may name it itself.
fn scope(audience: &str) -> String {
    match audience.ends_with("/.default") {
        true => audience.to_owned(),
        false => format!("{audience}/.default"),
    }
}

async fn answer(credentials: &mut HashMap<String, Arc<dyn TokenCredential>>, line: &str) -> Result<Value, Failure> {
    let request: Value = serde_json::from_str(line)?;
    let identity = &request["identity"];
    let key = identity.to_string();
    if !credentials.contains_key(&key) {
        let kind = identity["kind"].as_str().unwrap_or("platform-default");
        credentials.insert(
            key.clone(),
            new_credential(kind, identity["id"].as_str().map(str::to_owned))?,
        );
    }
    let scope = scope(request["audience"].as_str().unwrap_or_default());
    // A deadline is set by dropping the future; neither claims nor a rejected token have a place in this interface.
    let deadline = Duration::from_millis(request["timeout_ms"].as_u64().unwrap_or(20_000));
    let token = tokio::time::timeout(deadline, credentials[&key].get_token(&[&scope], None)).await??;
    Ok(json!({ "access_token": token.token.secret(), "expires_on": token.expires_on.unix_timestamp() }))
}

fn failure(error: &(dyn std::error::Error + 'static)) -> Value {
    let kind = error.downcast_ref().map(|error: &azure_core::Error| format!("{:?}", error.kind()));
    json!({ "error": { "class": kind, "message": error.to_string() } })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let mut credentials = HashMap::new();
    for line in io::stdin().lines() {
        let reply = answer(&mut credentials, &line?).await;
        println!("{}", reply.unwrap_or_else(|error| failure(&*error)));
    }
    Ok(())
}
