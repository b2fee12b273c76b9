// Reads a secret of a vault with a token of the platform's identity.

import { getToken } from "cloud:identity/managed-identity@0.2.0";
import { decode } from "cloud:identity/token-claims@0.2.0";
import { getArguments } from "wasi:cli/environment@0.2.12";

const AUDIENCE = "https://vault.azure.net";
const VAULT_URL = /^(https?:\/\/([\w.-]+|\[[\da-fA-F:.]+\])(:\d+)?)\/?$/;

/** Why there is no secret. */
class FetchError extends Error {}

/** There is no token. Programs decide by `cause`; the message is for a person. */
class TokenError extends FetchError {
  constructor({ cause, message, retryAfterMs }) {
    const again =
      retryAfterMs === undefined ? "" : ` (again in ${retryAfterMs} ms)`;
    super(`${cause}: ${message}${again}`, { cause });
  }
}

/** The token is not one that says anything of itself. */
class ClaimsError extends FetchError {
  constructor({ cause, message }) {
    super(`claims: ${cause}: ${message}`, { cause });
  }
}

/** The vault has no such secret, or does not say. */
class VaultError extends FetchError {
  constructor(reason) {
    super(`vault: ${reason}`);
  }
}

/** A token for vaults. `refusal` is why another one than last time is wanted. */
function newToken(refusal) {
  const request = {
    audience: AUDIENCE,
    identity: { tag: "platform-default" },
    timeoutMs: 30_000,
    ...refusal,
  };
  try {
    return getToken(request);
  } catch (error) {
    // An error in WIT is the `payload` of what is thrown. Without one, it is a mistake of ours.
    throw error.payload ? new TokenError(error.payload) : error;
  }
}

function claimsOf({ token }) {
  try {
    return decode(token);
  } catch (error) {
    throw error.payload ? new ClaimsError(error.payload) : error;
  }
}

/** Waits for something from the vault. */
async function answer(promise) {
  try {
    return await promise;
  } catch (error) {
    throw new VaultError(`no answer: ${error.message}`);
  }
}

function ask(vault, name, { tokenType, token }) {
  const path = `/secrets/${encodeURIComponent(name)}?api-version=7.4`;
  const headers = {
    authorization: `${tokenType} ${token}`,
    accept: "application/json",
  };
  // The engine's `fetch`, which goes through wasi:http.
  return answer(fetch(vault + path, { headers }));
}

function claimsWanted(response) {
  const challenge = response.headers.get("www-authenticate") ?? "";
  return challenge.match(/\bclaims="([^"]*)"/i)?.[1];
}

function nameOfSecret(bytes) {
  let secret;
  try {
    secret = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new VaultError("not a secret");
  }
  const id = secret?.id;
  if (typeof id !== "string" || !id.includes("/secrets/")) {
    throw new VaultError("not a secret");
  }
  return id.split("/secrets/")[1].split("/")[0];
}

async function fetchSecret(args) {
  if (args.length !== 2) {
    throw new FetchError("usage: fetch-secret VAULT-URL SECRET");
  }
  const [url, name] = args;
  const vault = url.match(VAULT_URL)?.[1];
  if (!vault) throw new FetchError(`not the URL of a vault: ${url}`);

  let token = newToken();
  let claims = claimsOf(token);
  let response = await ask(vault, name, token);
  if (response.status === 401) {
    // The token is no longer good enough. Without these two, the same one would come back
    // from the cache.
    token = newToken({
      claims: claimsWanted(response),
      rejectedToken: token.token,
    });
    claims = claimsOf(token);
    response = await ask(vault, name, token);
  }
  if (response.status !== 200) {
    throw new VaultError(`status ${response.status}`);
  }

  // The engine's `text()` would reject what is not UTF-8 as if it had not arrived.
  const body = await answer(response.arrayBuffer());
  return [
    `secret: ${nameOfSecret(body)}`,
    `from: ${token.source}`,
    `audience: ${claims.audiences.join(", ") || "-"}`,
    `tenant: ${claims.tenantId || "-"}`,
    `object: ${claims.objectId || "-"}`,
    `application: ${claims.applicationId || "-"}`,
    `expires: ${token.expiresOn}`,
  ].join("\n");
}

export const run = {
  async run() {
    try {
      console.log(await fetchSecret(getArguments().slice(1)));
    } catch (error) {
      console.error(`error: ${error.message}`);
      // Makes it the result of `run`, for which the exit code is 1.
      throw error;
    }
  },
};
