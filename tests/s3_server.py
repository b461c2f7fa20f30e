"""An S3 server on this machine, reached over HTTP as any other."""

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow.fs as pafs

from dpa.stores.store import Store


@dataclass(frozen=True)
class Bucket:
    """An empty bucket.

    Parameters
    ----------
    name : str
    endpoint : str
        ``http://127.0.0.1:port``.
    """

    name: str
    endpoint: str

    @property
    def uri(self) -> str:
        """A prefix of the bucket, as ``--storage`` takes it."""
        address = self.endpoint.removeprefix("http://")
        return f"s3://{self.name}/team/runs?endpoint_override={address}&scheme=http"

    @property
    def store(self) -> Store:
        """What the URI names."""
        return Store.of(self.uri, {})

    def below(self, name: str) -> str:
        """URI of a folder of the prefix."""
        return str(self.store.below(name))

    def contents(self) -> dict[str, bytes]:
        """Every object of the prefix."""
        store = self.store
        return {key: store.get(key) or b"" for key in store.sizes()}


@contextmanager
def s3_server() -> Iterator[str]:
    """Its endpoint, while it runs."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def new_bucket(endpoint: str) -> Bucket:
    """An empty bucket of a server."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    files = pafs.S3FileSystem(
        endpoint_override=endpoint, region="us-east-1", allow_bucket_creation=True
    )
    files.create_dir(name)
    return Bucket(name, endpoint)
