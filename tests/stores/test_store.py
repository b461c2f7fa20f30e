"""Objects on a real S3 server, and what is said when there is no such server, bucket or right."""

import os
import pickle
import socket
import urllib.request
from pathlib import Path

import pytest

from dpa.errors import ConfigError, DpaError
from dpa.stores.places import Storage, plain_path
from dpa.stores.store import Store, StoreAway, StoreError
from tests.s3_server import Bucket


def test_objects_are_written_read_listed_and_removed(bucket: Bucket, tmp_path: Path) -> None:
    store = bucket.store
    store.put("a/one", b"1")
    store.put("a/b/two", b"22")
    store.put("a/one", b"111")
    assert store.get("a/one") == b"111"
    assert store.get("a/none") is None
    assert store.sizes("a") == {"a/b/two": 2, "a/one": 3}
    assert store.below("a").sizes() == {"b/two": 2, "one": 3}
    assert store.folders() == ["a"]
    assert store.folders("a") == ["b"]
    assert store.folders("none") == []
    assert store.exists("a/one")
    assert not store.exists("a")
    store.delete(["a/one", "a/none"])
    assert store.sizes() == {"a/b/two": 2}
    assert store.age("a/one") is None
    assert 0 <= (store.age("a/b/two") or 0) < 60
    store.check()
    assert store.sizes() == {"a/b/two": 2}, "probes leave nothing"


def test_a_large_object_arrives_whole(bucket: Bucket) -> None:
    data = os.urandom(6 * 2**20)  # more than one part
    bucket.store.put("large", data)
    assert bucket.store.get("large") == data


def test_endpoint_and_region_come_from_the_uri_else_from_the_environment() -> None:
    environ = {"AWS_ENDPOINT_URL": "http://10.0.0.7:9000", "AWS_REGION": "eu-west-1"}
    said = Store.of("s3://bucket/a//b/", environ)
    assert (said.root, said.endpoint, said.scheme) == ("bucket/a/b", "10.0.0.7:9000", "http")
    assert said.region == "eu-west-1"
    typed = Store.of("s3://bucket?endpoint_override=host:1&scheme=https", environ)
    assert (typed.endpoint, typed.scheme) == ("host:1", "https")
    assert str(typed.below("a")) == "s3://bucket/a?endpoint_override=host:1&scheme=https"
    assert Store.of(str(typed.below("a")), {}) == Store(
        "bucket/a", "host:1", "us-east-1", "https", typed.given
    )
    assert Store.of("s3://bucket/a", {}) == Store("bucket/a")
    assert typed.below("a").parent == typed


@pytest.mark.parametrize(
    ("uri", "word"),
    [
        ("s3://AKIDSECRET:hunter2@bucket/runs", "credentials do not belong into a URI"),
        ("s3://bucket/runs?secret_key=hunter2", "parameter 'secret_key' is not known"),
        ("gs://bucket/runs", "gs://"),
        ("s3:///runs", "names no bucket"),
        ("s3://bucket/../other", "no place of objects"),
    ],
)
def test_what_is_no_store_is_refused_without_telling_a_secret(uri: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Storage.of(uri)
    assert word in str(caught.value)
    assert caught.value.cure
    assert "hunter2" not in str(caught.value)
    assert "AKIDSECRET" not in str(caught.value)


def test_a_database_cannot_lie_in_a_store() -> None:
    assert plain_path("runs") == Path("runs")
    with pytest.raises(ConfigError, match="a folder is needed here"):
        plain_path("s3://bucket/runs")


def test_a_missing_bucket_is_told_on_reading_and_writing(bucket: Bucket) -> None:
    missing = Store.of(bucket.uri.replace(bucket.name, "no-such-bucket"), {})
    for ask in (missing.check, missing.sizes, missing.folders):
        with pytest.raises(StoreError, match="there is no bucket 'no-such-bucket'; make it"):
            ask()


def test_a_store_that_is_away_is_worth_trying_again() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = Store.of(f"s3://bucket/runs?endpoint_override=127.0.0.1:{port}&scheme=http", {})
    with pytest.raises(StoreAway, match=f"does not answer at 127.0.0.1:{port}; check") as caught:
        store.check()
    assert "\n" not in str(caught.value)


def test_wrong_credentials_are_told_and_not_shown(bucket: Bucket) -> None:
    """The server begins to look at who asks: the keys of the tests belong to nobody."""

    def check_from_now_on(after: int) -> None:
        where, kind = f"{bucket.endpoint}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        asked = urllib.request.Request(where, str(after).encode(), kind)
        with urllib.request.urlopen(asked) as answer:
            assert answer.status == 200

    check_from_now_on(0)
    try:
        for ask in (bucket.store.check, bucket.store.sizes, lambda: bucket.store.get("a")):
            with pytest.raises(StoreError, match=r"access is denied .*; set AWS_ACCESS") as caught:
                ask()
            assert_holds_no_secret(str(caught.value))
    finally:
        check_from_now_on(10**9)


def assert_holds_no_secret(text: str) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert os.environ[name] not in text


def test_a_store_that_travels_carries_no_secret(bucket: Bucket) -> None:
    store = bucket.store
    store.put("a", b"1")
    for sent in (pickle.dumps(store), pickle.dumps(store.files)):
        assert_holds_no_secret(sent.decode("latin-1"))
    assert pickle.loads(pickle.dumps(store)).get("a") == b"1"  # noqa: S301  what was just made


def test_errors_are_of_the_tree() -> None:
    assert issubclass(StoreError, DpaError)
    assert issubclass(StoreAway, DpaError)
