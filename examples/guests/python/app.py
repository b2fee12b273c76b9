"""Reads a secret of a vault with a token of the platform's identity."""

import json
import re
import sys
from dataclasses import dataclass
from urllib.parse import quote

# Modules that componentize-py makes of the world. `componentize-py bindings` writes
# them into a folder, for editors and type checkers.
from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import cloud_identity_types as identity
from wit_world.imports import managed_identity, outgoing_handler, token_claims
from wit_world.imports import wasi_http_types as http
from wit_world.imports.streams import StreamError_LastOperationFailed

AUDIENCE = "https://vault.azure.net"
AUTHORITY = r"([\w.-]+|\[[\da-fA-F:.]+\])(:\d+)?"


class FetchError(Exception):
    """Why there is no secret."""


class TokenError(FetchError):
    """There is no token. Programs decide by `cause`; the message is for a person."""

    def __init__(self, error: identity.Error) -> None:
        super().__init__(describe(error))
        self.cause = error.cause
        if error.retry_after_ms is not None:
            self.args = (f"{self} (again in {error.retry_after_ms} ms)",)


class ClaimsError(FetchError):
    """The token is not one that says anything of itself."""

    def __init__(self, error: identity.Error) -> None:
        super().__init__(f"claims: {describe(error)}")


class VaultError(FetchError):
    """The vault has no such secret, or does not say."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"vault: {reason}")


def describe(error: identity.Error) -> str:
    # Where WIT says `endpoint-unreachable`, Python says `Cause.ENDPOINT_UNREACHABLE`.
    return f"{error.cause.name.lower().replace('_', '-')}: {error.message}"


def get_token(
    claims: str | None = None, rejected_token: str | None = None
) -> identity.AccessToken:
    request = identity.TokenRequest(
        audience=AUDIENCE,
        identity=identity.Identity_PlatformDefault(),
        claims=claims,
        rejected_token=rejected_token,
        timeout_ms=30_000,
    )
    try:
        return managed_identity.get_token(request)
    except Err as error:
        raise TokenError(error.value) from error


def decode(token: identity.AccessToken) -> token_claims.Claims:
    try:
        return token_claims.decode(token.token)
    except Err as error:
        raise ClaimsError(error.value) from error


@dataclass
class Response:
    status: int
    challenge: str
    body: bytes


class Vault:
    """Asks a vault through wasi:http. Python's own library would need sockets for it,
    and few components are given those."""

    def __init__(self, url: str) -> None:
        parts = re.fullmatch(f"(https?)://({AUTHORITY})/?", url, re.ASCII)
        if parts is None:
            raise FetchError(f"not the URL of a vault: {url}")
        https = parts[1] == "https"
        self.scheme = http.Scheme_Https() if https else http.Scheme_Http()
        self.authority = parts[2]

    def get(self, name: str, token: identity.AccessToken) -> Response:
        authorization = f"{token.token_type} {token.token}"
        request = http.OutgoingRequest(
            http.Fields.from_list(
                [
                    ("authorization", authorization.encode()),
                    ("accept", b"application/json"),
                ]
            )
        )
        request.set_scheme(self.scheme)
        request.set_authority(self.authority)
        path = f"/secrets/{quote(name, safe='')}?api-version=7.4"
        request.set_path_with_query(path)
        try:
            with send(request) as response:
                status = response.status()
                with response.headers() as headers:
                    challenge = b", ".join(headers.get("www-authenticate"))
                body = read(response) if status == 200 else b""
        except Err as error:
            # Such as `ErrorCode_ConnectionRefused`.
            code = type(error.value).__name__.removeprefix("ErrorCode_")
            raise VaultError(f"no answer: {code}") from error
        return Response(status, challenge.decode("latin-1"), body)


def send(request: http.OutgoingRequest) -> http.IncomingResponse:
    """Waits for the answer, or raises `Err` with the error code of wasi:http."""
    with outgoing_handler.handle(request, None) as pending:
        with pending.subscribe() as answered:
            answered.block()
        match pending.get():
            case Ok(Ok(response)):
                return response
            case Ok(Err() as error):
                raise error
            case other:
                raise AssertionError(f"{other} after the wait")


def read(response: http.IncomingResponse) -> bytes:
    """Reads the body, or raises `Err` with the error code of wasi:http."""
    content = bytearray()
    # `with` ends them in the order that WASI wants: the stream before the body.
    with response.consume() as body, body.stream() as stream:
        try:
            while True:
                content += stream.blocking_read(65536)
        except Err as end:
            if isinstance(end.value, StreamError_LastOperationFailed):
                with end.value.value as failure:
                    code = http.http_error_code(failure)
                raise Err(code or http.ErrorCode_InternalError(None)) from end
    return bytes(content)


def claims_wanted(challenge: str) -> str | None:
    claims = re.search(r'\bclaims="([^"]*)"', challenge, re.IGNORECASE)
    return claims[1] if claims else None


def name_of_secret(body: bytes) -> str:
    try:
        match json.loads(body):
            case {"id": str(url)} if "/secrets/" in url:
                return url.split("/secrets/")[1].split("/")[0]
    except ValueError:
        pass
    raise VaultError("not a secret")


def fetch_secret(arguments: list[str]) -> str:
    if len(arguments) != 2:
        raise FetchError("usage: fetch-secret VAULT-URL SECRET")
    url, name = arguments
    vault = Vault(url)

    token = get_token()
    claims = decode(token)
    response = vault.get(name, token)
    if response.status == 401:
        # The token is no longer good enough. Without these two, the same one would come
        # back from the cache.
        token = get_token(claims_wanted(response.challenge), token.token)
        claims = decode(token)
        response = vault.get(name, token)
    if response.status != 200:
        raise VaultError(f"status {response.status}")

    return "\n".join(
        [
            f"secret: {name_of_secret(response.body)}",
            f"from: {token.source}",
            f"audience: {', '.join(claims.audiences) or '-'}",
            f"tenant: {claims.tenant_id or '-'}",
            f"object: {claims.object_id or '-'}",
            f"application: {claims.application_id or '-'}",
            f"expires: {token.expires_on}",
        ]
    )


class Run(exports.Run):
    """What is run: componentize-py looks for this name, which is that of the interface."""

    def run(self) -> None:
        try:
            print(fetch_secret(sys.argv[1:]))
        except FetchError as error:
            sys.exit(f"error: {error}")
