"""What azure-identity costs, measured: see ../bench.py."""

import sys

sys.path.insert(0, __file__.rsplit("/", 2)[0])
import bench  # noqa: E402


class Client:
    def __init__(self):
        # Inside, because loading it is part of a program's start.
        from azure.identity import ManagedIdentityCredential

        self.credential = ManagedIdentityCredential()

    def token(self, audience):
        return len(self.credential.get_token(f"{audience}/.default").token)


bench.run(Client)
