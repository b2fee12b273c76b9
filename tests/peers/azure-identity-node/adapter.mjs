// Holds @azure/identity for Node.js against the conformance cases. ../README.md says what the adapters do and do not do.

import { createInterface } from "node:readline";
import { createDefaultHttpClient } from "@azure/core-rest-pipeline";
import { ManagedIdentityCredential, WorkloadIdentityCredential } from "@azure/identity";

const environment = process.env;
const credentials = new Map();

// The client asks the address in this variable for /metadata/identity/oauth2/token/, and the fixed address for the same
// path without the last slash. Most who use it use the fixed address: that request is the one to hold against the cases.
// Nothing listens at port 1: a case that gives no metadata service shall not reach that of the machine it is run on.
const imds = environment.AZURE_POD_IDENTITY_AUTHORITY_HOST || "http://127.0.0.1:1";
delete environment.AZURE_POD_IDENTITY_AUTHORITY_HOST;

const transport = createDefaultHttpClient();
const httpClient = {
  sendRequest(request) {
    const url = new URL(request.url);
    if (url.hostname === "169.254.169.254") request.url = imds.replace(/\/$/, "") + url.pathname + url.search;
    return transport.sendRequest(request);
  },
};

/** Whether the environment announces workload identity, and no platform that comes before it. */
function inWorkloadIdentity() {
  return environment.AZURE_FEDERATED_TOKEN_FILE && !environment.IDENTITY_ENDPOINT && !environment.MSI_ENDPOINT;
}

function newCredential(identity) {
  const selector = { httpClient };
  switch (identity.kind) {
    case "client-id":
      selector.clientId = identity.id;
      break;
    case "object-id":
      selector.objectId = identity.id;
      break;
    case "resource-id":
      selector.resourceId = identity.id;
      break;
    case "platform-default":
      // As DefaultAzureCredential does.
      if (environment.AZURE_CLIENT_ID) selector.clientId = environment.AZURE_CLIENT_ID;
  }
  const covered = environment.AZURE_TENANT_ID && (selector.clientId || environment.AZURE_CLIENT_ID);
  if (!inWorkloadIdentity() || covered) return new ManagedIdentityCredential(selector);
  if (identity.kind !== "client-id" && identity.kind !== "platform-default") {
    throw new Error(`WorkloadIdentityCredential has no option for the identity ${identity.kind}`);
  }
  return new WorkloadIdentityCredential(selector);
}

/** The scope that stands for an audience. A case may name it itself. */
function scope(audience) {
  return audience.endsWith("/.default") ? audience : `${audience}/.default`;
}

async function answer(request) {
  const identity = request.identity ?? { kind: "platform-default" };
  const key = JSON.stringify([identity.kind, identity.id]);
  if (!credentials.has(key)) credentials.set(key, newCredential(identity));
  const token = await credentials.get(key).getToken(scope(request.audience), {
    claims: request.claims,
    abortSignal: AbortSignal.timeout(request.timeout_ms),
  });
  return { access_token: token.token, expires_on: Math.floor(token.expiresOnTimestamp / 1000) };
}

for await (const line of createInterface({ input: process.stdin })) {
  const reply = await Promise.resolve(line)
    .then(JSON.parse)
    .then(answer)
    .catch((error) => ({ error: { class: error.name, message: error.message } }));
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
