// A provider in another language than ours: it makes its tokens itself, of a variable of its environment and a number.
//
// `tests/own_provider.rs` makes a component of it, for the world in `provider.wit`.

import { getEnvironment } from "wasi:cli/environment@0.2.12";

const LIFETIME = 3600;

let issued = 0;

function failure(cause, message) {
  return { cause, message, source: "javascript", httpStatus: null, retryAfterMs: null, correlationId: null };
}

export const managedIdentity = {
  getToken(request) {
    if (request.claims !== null) {
      throw failure("unsupported", "This provider meets no claims challenge.");
    }
    const secret = new Map(getEnvironment()).get("IDENTITY_HEADER");
    if (secret === undefined) {
      throw failure("not-configured", "IDENTITY_HEADER is not set.");
    }
    issued += 1;
    const now = Math.floor(Date.now() / 1000);
    return {
      token: `${secret} ${issued} ${request.identity.tag} ${request.identity.val ?? ""}`.trimEnd(),
      tokenType: "Bearer",
      audience: request.audience,
      expiresOn: now + LIFETIME,
      refreshOn: now + LIFETIME / 2,
      clientId: null,
      source: "javascript",
      stale: false,
    };
  },

  forget(_audience) {},

  describeSource() {
    return { source: "javascript", endpoint: null, reasons: ["It makes its tokens itself."], lastFailure: null };
  },
};
