"""A store of objects, ``s3://bucket/prefix``, through pyarrow's file systems.

An object is written whole or not at all, and replaced in one step; that, and that a read sees the
newest write, is all that is asked of a store. Nothing here is a secret: credentials come from the
environment of each process (``AWS_ACCESS_KEY_ID`` and its like, ``~/.aws``, or the machine's role),
and a store that travels to another node carries none.
"""

import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from dpa.errors import ConfigError, RunError, TransientError

PARAMETERS = ("endpoint_override", "scheme", "region")  # what a URI may say beside the place
CONNECT_SECONDS, SILENT_SECONDS = 5.0, 60.0
ATTEMPTS = 3  # of one request, with a pause that grows
AT_ONCE = 8  # objects on their way
DELAYED_OPEN = 20  # first pyarrow that sends a small object in one request
CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another source that AWS knows"
Answer = TypeVar("Answer")


class StoreError(RunError):
    """A store refuses: no such bucket, no right to it."""


class StoreAway(TransientError):
    """A store does not answer; worth trying again."""


def is_uri(text: str) -> bool:
    """Whether `text` names a store and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


@dataclass(frozen=True)
class Store:
    """Objects below one prefix of one bucket.

    Parameters
    ----------
    root : str
        ``bucket/prefix``.
    endpoint, region, scheme : str
        Where the bucket is; empty: as AWS has it.
    given : tuple of (str, str)
        Parameters that the URI gave, for naming the store again.
    """

    root: str
    endpoint: str = ""
    region: str = ""
    scheme: str = ""
    given: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, uri: str, environ: Mapping[str, str]) -> "Store":
        """The store that a URI names.

        Parameters
        ----------
        uri : str
            ``s3://bucket/prefix``, and ``?endpoint_override=host:port&scheme=http&region=...``.
        environ : mapping
            The environment: ``AWS_ENDPOINT_URL``, ``AWS_REGION`` count where the URI says nothing.

        Raises
        ------
        ConfigError
            When it names another kind of store, no bucket, or carries a secret.
        """
        parts = urlsplit(uri)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        _check_uri(parts, shown)
        given = tuple(parse_qsl(parts.query, keep_blank_values=True))
        strange = [name for name, _ in given if name not in PARAMETERS]
        if strange:
            raise ConfigError(
                f"{shown}: parameter {strange[0]!r} is not known", f"give {', '.join(PARAMETERS)}"
            )
        said = dict(given)
        endpoint = said.get("endpoint_override", "")
        if not endpoint:
            endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
        address = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
        region = said.get("region") or environ.get("AWS_REGION")
        region = region or environ.get("AWS_DEFAULT_REGION") or ("us-east-1" if endpoint else "")
        path = "/".join(part for part in parts.path.split("/") if part)
        root = f"{parts.netloc}/{path}".rstrip("/")
        scheme = said.get("scheme") or address.scheme
        return cls(root, address.netloc, region, scheme, given)

    def __str__(self) -> str:
        query = f"?{urlencode(self.given, safe=':/')}" if self.given else ""
        return f"s3://{self.root}{query}"

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self.root.partition("/")[0]

    @property
    def name(self) -> str:
        """The last part of the prefix."""
        return self.root.rpartition("/")[2]

    @property
    def parent(self) -> "Store":
        """The store one step up."""
        return Store(
            self.root.rpartition("/")[0], self.endpoint, self.region, self.scheme, self.given
        )

    def below(self, name: str) -> "Store":
        """The store of the folder `name` of this one."""
        return Store(f"{self.root}/{name}", self.endpoint, self.region, self.scheme, self.given)

    @property
    def files(self) -> Any:
        """pyarrow's file system; its paths begin with the bucket."""
        return self._asked(lambda: _file_system(self.bucket, *self._where()))

    def _where(self) -> tuple[str, str, str]:
        return self.endpoint, self.region, self.scheme

    def put(self, key: str, data: Any) -> None:
        """Write an object, replacing it."""

        def write() -> None:
            # one call: what is closed after half of it would be there as if it were whole
            with self.files.open_output_stream(f"{self.root}/{key}") as stream:
                stream.write(data)

        self._asked(write)

    def put_file(self, key: str, path: Path) -> None:
        """Write a file as an object."""
        self.put(key, path.read_bytes())

    def get(self, key: str) -> bytes | None:
        """An object; none when there is no such."""

        def read() -> bytes | None:
            try:
                with self.files.open_input_stream(f"{self.root}/{key}") as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

        return self._asked(read)

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Size of every object below a folder, by its key, in order.

        Raises
        ------
        StoreError
            When there is no such bucket.
        """
        found = self._listed(folder, True)
        return {_below(self.root, each.path): each.size for each in found if each.is_file}

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly below a folder, in order."""
        found = self._listed(folder, False)
        return [each.base_name for each in found if not each.is_file]

    def _listed(self, folder: str, recursive: bool) -> list[Any]:
        place = f"{self.root}/{folder}".rstrip("/")

        def look() -> list[Any]:
            try:
                return list(self.files.get_file_info(pafs.FileSelector(place, recursive=recursive)))
            except FileNotFoundError:
                return []

        return sorted(self._asked(look), key=lambda info: info.path)

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return bool(self._info(key).is_file)

    def age(self, key: str) -> float | None:
        """Seconds since an object was written, by the store's own clock; none without it.

        A small object is written and removed to learn the time of the store.
        """
        probe = f".clock-{uuid.uuid4().hex}"
        self.put(probe, b"")
        try:
            now, then = self._info(probe), self._info(key)
            return (now.mtime - then.mtime).total_seconds() if then.is_file else None
        finally:
            self.delete([probe])

    def _info(self, key: str) -> Any:
        return self._asked(lambda: self.files.get_file_info(f"{self.root}/{key}"))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error."""

        def remove(key: str) -> None:
            try:
                self.files.delete_file(f"{self.root}/{key}")
            except FileNotFoundError:
                return

        at_once(lambda key: self._asked(lambda: remove(key)), keys)

    def check(self) -> None:
        """Prove that objects can be written here, leaving nothing behind.

        Raises
        ------
        StoreError, StoreAway
        """
        probe = f".probe-{uuid.uuid4().hex}"
        self.put(probe, b"")
        self.delete([probe])

    def _asked(self, action: Callable[[], Answer]) -> Answer:
        """The answer of the file system, its errors in words that hold no more than a code."""
        try:
            return action()
        except (OSError, pa.ArrowException) as e:
            raise _error(self, str(e)) from None


def at_once(action: Callable[[Any], Answer], things: Iterable[Any]) -> list[Answer]:
    """`action` of several things, some at a time; the first error is raised when all have ended."""
    every = list(things)
    if len(every) < 2:
        return [action(thing) for thing in every]
    with ThreadPoolExecutor(min(AT_ONCE, len(every))) as pool:
        return list(pool.map(action, every))


def _below(root: str, path: str) -> str:
    return path[len(root) + 1 :]


def _check_uri(parts: SplitResult, shown: str) -> None:
    if parts.scheme.lower() != "s3":
        raise ConfigError(
            f"{shown}: {parts.scheme}:// is no store that dpa knows",
            "give s3://bucket/prefix, or a path that all machines share",
        )
    if "@" in parts.netloc:
        raise ConfigError(f"{shown}: credentials do not belong into a URI", CREDENTIALS)
    if not parts.netloc:
        raise ConfigError(f"{shown}: names no bucket", "give s3://bucket/prefix")
    if parts.fragment or any(part in (".", "..") for part in parts.path.split("/")):
        raise ConfigError(f"{shown}: is no place of objects", "give s3://bucket/prefix")


@cache
def _file_system(bucket: str, endpoint: str, region: str, scheme: str) -> Any:
    options: dict[str, Any] = {"endpoint_override": endpoint} if endpoint else {}
    options |= {"scheme": scheme} if scheme else {}
    options["region"] = region or pafs.resolve_s3_region(bucket)
    if int(pa.__version__.partition(".")[0]) >= DELAYED_OPEN:
        options["allow_delayed_open"] = True
    return pafs.S3FileSystem(
        connect_timeout=CONNECT_SECONDS,
        request_timeout=SILENT_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        background_writes=False,
        **options,
    )


def _error(store: Store, said: str) -> RunError | TransientError:
    """The error for what a store answered; of its words only the code is shown."""
    found = re.search(r"AWS Error (\w+)", said)
    code = found[1] if found else ""
    status = re.search(r"HTTP status (\d+)", said)
    where = str(store)
    if "NO_SUCH_BUCKET" in said or "NoSuchBucket" in said or "Bucket '" in said:
        return StoreError(
            f"{where}: there is no bucket {store.bucket!r}",
            "make it, or check the name, AWS_ENDPOINT_URL and the region",
        )
    if code in ("NETWORK_CONNECTION", "REQUEST_TIMEOUT") or "curlCode" in said:
        at = f" at {store.endpoint}" if store.endpoint else ""
        return StoreAway(
            f"{where}: the store does not answer{at}",
            "check that it runs, AWS_ENDPOINT_URL and the network",
        )
    if code in _DENIED or (status and status[1] in ("401", "403")):
        return StoreError(
            f"{where}: access is denied ({code or (status and status[1])})", CREDENTIALS
        )
    if code in ("SLOW_DOWN", "INTERNAL_FAILURE", "SERVICE_UNAVAILABLE", "THROTTLING") or (
        status and status[1].startswith("5")
    ):
        return StoreAway(f"{where}: the store cannot answer now ({code})", "try again later")
    return StoreError(f"{where}: cannot be used ({code or 'no reason given'})", CREDENTIALS)


_DENIED = (
    "ACCESS_DENIED",
    "EXPIRED_TOKEN",
    "INVALID_ACCESS_KEY_ID",
    "INVALID_CLIENT_TOKEN_ID",
    "MISSING_AUTHENTICATION_TOKEN",
    "SIGNATURE_DOES_NOT_MATCH",
    "UNRECOGNIZED_CLIENT",
)
