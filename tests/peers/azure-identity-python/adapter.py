"""Holds azure-identity for Python against the conformance cases. ../README.md says what the adapters do and do not do."""

import json
import os
import sys

from azure.identity import ManagedIdentityCredential, WorkloadIdentityCredential

# Nothing listens here. A case that gives no metadata service shall not reach that of the machine it is run on.
os.environ.setdefault("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")

credentials = {}


def in_workload_identity():
    """Whether the environment announces workload identity, and no platform that comes before it."""
    others = ("IDENTITY_ENDPOINT", "MSI_ENDPOINT")
    return bool(os.environ.get("AZURE_FEDERATED_TOKEN_FILE")) and not any(map(os.environ.get, others))


def new_credential(kind, identifier):
    if kind == "platform-default":
        # As DefaultAzureCredential does.
        kind, identifier = "client-id", os.environ.get("AZURE_CLIENT_ID") or None
    selector = {}
    if kind == "client-id":
        selector["client_id"] = identifier
    elif kind in ("object-id", "resource-id"):
        selector["identity_config"] = {kind.replace("-", "_"): identifier}

    if not in_workload_identity():
        return ManagedIdentityCredential(**selector)
    # The documented setting for an authority that Microsoft Entra does not list.
    discovery = {"disable_instance_discovery": True}
    proxied = os.environ.get("MANAGED_IDENTITY_USE_TOKEN_PROXY") == "true"
    covered = os.environ.get("AZURE_AUTHORITY_HOST") and os.environ.get("AZURE_TENANT_ID")
    if covered and not proxied:
        return ManagedIdentityCredential(**selector, **discovery)
    if kind != "client-id":
        raise ValueError(f"WorkloadIdentityCredential has no parameter for the identity {kind}")
    return WorkloadIdentityCredential(**selector, **discovery, enable_azure_proxy=proxied)


def scope(audience):
    """The scope that stands for an audience. A case may name it itself."""
    return audience if audience.endswith("/.default") else audience + "/.default"


def answer(request):
    identity = request.get("identity", {"kind": "platform-default"})
    key = (identity["kind"], identity.get("id"))
    if key not in credentials:
        credentials[key] = new_credential(*key)
    token = credentials[key].get_token(scope(request["audience"]), claims=request.get("claims"))
    return {"access_token": token.token, "expires_on": token.expires_on}


for line in sys.stdin:
    try:
        reply = answer(json.loads(line))
    except Exception as error:  # The clients raise many kinds; a program that asks for a token has to expect any.
        reply = {"error": {"class": type(error).__name__, "message": str(error)}}
    print(json.dumps(reply), flush=True)
