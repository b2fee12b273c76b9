"""What msal costs, measured: see ../bench.py."""

import sys

sys.path.insert(0, __file__.rsplit("/", 2)[0])
import bench  # noqa: E402


class Client:
    def __init__(self):
        # Inside, because loading it is part of a program's start.
        import msal
        import requests

        self.client = msal.ManagedIdentityClient(msal.SystemAssignedManagedIdentity(), http_client=requests.Session())

    def token(self, audience):
        result = self.client.acquire_token_for_client(resource=audience)
        if "access_token" not in result:
            raise RuntimeError(result)
        return len(result["access_token"])


bench.run(Client)
