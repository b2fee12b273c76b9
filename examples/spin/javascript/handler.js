// `GET /javascript/NAME` reads the secret NAME of a vault, and answers how long it is. It holds no
// credential: it gets tokens through cloud:identity, which spin.toml has answered by the provider.

import { getToken } from "cloud:identity/managed-identity@0.2.0";
import { getEnvironment } from "wasi:cli/environment@0.2.10";

const AUDIENCE = "https://vault.azure.net";

/** Why there is no length, and whose fault that is. */
class HandlerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** A token for vaults. `refusal` is why another one than last time is wanted. */
function newToken(refusal) {
  const request = {
    audience: AUDIENCE,
    identity: { tag: "platform-default" },
    timeoutMs: 10_000,
    ...refusal,
  };
  try {
    return getToken(request);
  } catch (error) {
    // An error in WIT is the `payload` of what is thrown. Without one, it is a mistake of ours.
    if (!error.payload) throw error;
    const { cause, message } = error.payload;
    const isBusy = cause === "throttled" || cause === "platform-updating";
    throw new HandlerError(isBusy ? 503 : 502, message);
  }
}

async function ask(url, { tokenType, token }) {
  const headers = {
    authorization: `${tokenType} ${token}`,
    accept: "application/json",
  };
  try {
    // The engine's `fetch`, which goes through wasi:http.
    return await fetch(url, { headers });
  } catch (error) {
    throw new HandlerError(502, `vault: no answer: ${error.message}`);
  }
}

function claimsWanted(response) {
  const challenge = response.headers.get("www-authenticate") ?? "";
  return challenge.match(/\bclaims="([^"]*)"/i)?.[1];
}

async function lengthOfSecret(name) {
  // What vaults allow in names, so that a name is never more than one part of a path.
  if (!/^[0-9A-Za-z-]+$/.test(name)) {
    throw new HandlerError(400, "not the name of a secret");
  }
  const vault = Object.fromEntries(getEnvironment()).VAULT_URL;
  if (!vault) {
    const why = "VAULT_URL is not set: spin.toml has it in `environment`";
    throw new HandlerError(500, why);
  }
  const url = `${vault.replace(/\/$/, "")}/secrets/${name}?api-version=7.4`;
  let token = newToken();
  let response = await ask(url, token);
  if (response.status === 401) {
    // The token is no longer good enough. Without these two, the same one would come back from
    // the cache.
    token = newToken({
      claims: claimsWanted(response),
      rejectedToken: token.token,
    });
    response = await ask(url, token);
  }
  if (response.status !== 200) {
    throw new HandlerError(502, `vault: status ${response.status}`);
  }
  const secret = await response.json().catch(() => undefined);
  if (typeof secret?.value !== "string") {
    throw new HandlerError(502, "vault: not a secret");
  }
  return [...secret.value].length;
}

async function handle(request) {
  const name = new URL(request.url).pathname.split("/").pop();
  let status = 200;
  let body;
  try {
    body = { secret: name, length: await lengthOfSecret(name) };
  } catch (error) {
    status = error.status ?? 500;
    body = { error: error.message };
  }
  const headers = { "content-type": "application/json" };
  return new Response(JSON.stringify(body), { status, headers });
}

addEventListener("fetch", (event) => event.respondWith(handle(event.request)));
