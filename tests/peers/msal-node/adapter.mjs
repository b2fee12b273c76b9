// Holds @azure/msal-node against the conformance cases. ../README.md says what the adapters do and do not do.

import { createInterface } from "node:readline";
import { ConfidentialClientApplication, ManagedIdentityApplication } from "@azure/msal-node";
import { readFileSync } from "node:fs";

const environment = process.env;
const applications = new Map();

// Nothing listens here. A case that gives no metadata service shall not reach that of the machine it is run on.
environment.AZURE_POD_IDENTITY_AUTHORITY_HOST ||= "http://127.0.0.1:1";

/** Whether the environment announces workload identity, and no platform that comes before it. */
function inWorkloadIdentity() {
  return environment.AZURE_FEDERATED_TOKEN_FILE && !environment.IDENTITY_ENDPOINT && !environment.MSI_ENDPOINT;
}

/** MSAL has no credential for workload identity: this is what its users write in its place. */
function newWorkloadApplication(clientId) {
  const host = (environment.AZURE_AUTHORITY_HOST || "https://login.microsoftonline.com").replace(/\/$/, "");
  const authority = `${host}/${environment.AZURE_TENANT_ID}`;
  return new ConfidentialClientApplication({
    auth: {
      clientId,
      authority,
      // The documented setting for an authority that Microsoft Entra does not list.
      knownAuthorities: [authority],
      clientAssertion: async () => readFileSync(environment.AZURE_FEDERATED_TOKEN_FILE, "utf8"),
    },
  });
}

function newApplication(identity) {
  let { kind, id } = identity;
  if (kind === "platform-default") {
    // As the DefaultAzureCredential of @azure/identity does; MSAL has no default of its own.
    id = environment.AZURE_CLIENT_ID;
    kind = id ? "client-id" : "system-assigned";
  }
  if (inWorkloadIdentity()) {
    if (kind !== "client-id") {
      throw new Error(`ConfidentialClientApplication has no parameter for the identity ${kind}`);
    }
    return newWorkloadApplication(id);
  }
  const parameters = {
    "client-id": { userAssignedClientId: id },
    "object-id": { userAssignedObjectId: id },
    "resource-id": { userAssignedResourceId: id },
    "system-assigned": undefined,
  };
  return new ManagedIdentityApplication({ managedIdentityIdParams: parameters[kind] });
}

/** The scope that stands for an audience. A case may name it itself. */
function scope(audience) {
  return audience.endsWith("/.default") ? audience : `${audience}/.default`;
}

async function answer(request) {
  const identity = request.identity ?? { kind: "platform-default" };
  const key = JSON.stringify([identity.kind, identity.id]);
  if (!applications.has(key)) applications.set(key, newApplication(identity));
  const application = applications.get(key);
  const { audience, claims } = request;
  const token =
    application instanceof ManagedIdentityApplication
      ? await application.acquireToken({ resource: audience, claims })
      : await application.acquireTokenByClientCredential({ scopes: [scope(audience)], claims });
  return { access_token: token.accessToken, expires_on: Math.floor(token.expiresOn.getTime() / 1000) };
}

for await (const line of createInterface({ input: process.stdin })) {
  const reply = await Promise.resolve(line)
    .then(JSON.parse)
    .then(answer)
    .catch((error) => ({ error: { class: error.name, message: error.message } }));
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
