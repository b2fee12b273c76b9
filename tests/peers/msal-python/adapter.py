"""Holds MSAL for Python against the conformance cases. ../README.md says what the adapters do and do not do."""

import json
import os
import sys
import time

import msal
import requests

# Nothing listens here. A case that gives no metadata service shall not reach that of the machine it is run on.
os.environ.setdefault("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")

clients = {}


def in_workload_identity():
    """Whether the environment announces workload identity, and no platform that comes before it."""
    others = ("IDENTITY_ENDPOINT", "MSI_ENDPOINT")
    return bool(os.environ.get("AZURE_FEDERATED_TOKEN_FILE")) and not any(map(os.environ.get, others))


def read_assertion():
    with open(os.environ["AZURE_FEDERATED_TOKEN_FILE"], encoding="utf-8") as file:
        return file.read()


def new_workload_client(client_id):
    """MSAL has no credential for workload identity: this is what its users write in its place."""
    authority = os.environ.get("AZURE_AUTHORITY_HOST") or "https://login.microsoftonline.com"
    return msal.ConfidentialClientApplication(
        client_id,
        client_credential={"client_assertion": read_assertion},
        authority=f"{authority.rstrip('/')}/{os.environ['AZURE_TENANT_ID']}",
        # The documented setting for an authority that Microsoft Entra does not list.
        instance_discovery=False,
    )


def new_client(kind, identifier):
    if kind == "platform-default":
        # As the DefaultAzureCredential of azure-identity does; MSAL has no default of its own.
        identifier = os.environ.get("AZURE_CLIENT_ID")
        kind = "client-id" if identifier else "system-assigned"
    if in_workload_identity():
        if kind != "client-id":
            raise ValueError(f"ConfidentialClientApplication has no parameter for the identity {kind}")
        return new_workload_client(identifier)
    if kind == "system-assigned":
        identity = msal.SystemAssignedManagedIdentity()
    else:
        identity = msal.UserAssignedManagedIdentity(**{kind.replace("-", "_"): identifier})
    # The session that MSAL's own examples use; retries are left to whoever makes one.
    return msal.ManagedIdentityClient(identity, http_client=requests.Session())


def resource(audience):
    """What users of ManagedIdentityClient write, whose parameter is a resource and no scope."""
    return audience.removesuffix("/.default")


def scope(audience):
    """The scope that stands for an audience. A case may name it itself."""
    return audience if audience.endswith("/.default") else audience + "/.default"


def answer(request):
    identity = request.get("identity", {"kind": "platform-default"})
    key = (identity["kind"], identity.get("id"))
    if key not in clients:
        clients[key] = new_client(*key)
    audience, claims = request["audience"], request.get("claims")
    if isinstance(clients[key], msal.ManagedIdentityClient):
        result = clients[key].acquire_token_for_client(resource=resource(audience), claims_challenge=claims)
    else:
        result = clients[key].acquire_token_for_client([scope(audience)], claims_challenge=claims)
    if "access_token" not in result:
        return {"error": {"message": f"{result.get('error')}: {result.get('error_description')}"}}
    # MSAL says how long a token lives, not when it ends. A reply without an `expires_in` is passed on as it came.
    lifetime = result.get("expires_in")
    return {
        "access_token": result["access_token"],
        "expires_on": None if lifetime is None else int(time.time()) + int(lifetime),
    }


for line in sys.stdin:
    try:
        reply = answer(json.loads(line))
    except Exception as error:  # MSAL passes on what its HTTP client and its parsers raise.
        reply = {"error": {"class": type(error).__name__, "message": str(error)}}
    print(json.dumps(reply), flush=True)
