"""What keeping every fold in a store costs: ``python tests/benchmarks/bench_storage.py``.

The same small trial fold by fold, in a folder and in a store on this machine (moto's S3 server,
in a process of its own), in turns. What the push adds is measured by itself; the network to a real
store adds its own time for each request, of which there are as many as told here, eight at once.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from dpa.config import load_settings
from dpa.research.grid import Trial, folds_from
from dpa.research.single import last_price_bars
from dpa.research.trials import TrialRun
from dpa.simulation.planted import PlantedMarket, simulate
from dpa.stores.mirror import Mirror
from dpa.stores.store import Store


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", type=int, default=100)
    parser.add_argument("--bars", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args(argv)
    os.environ |= {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    server.start()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            measure(arguments, Store.of(ours.recv(), {}), Path(scratch))
    finally:
        ours.send("end")
        server.join()


def serve(connection: Connection) -> None:
    """An S3 server until told to end."""
    from tests.s3_server import new_bucket, s3_server

    with s3_server() as endpoint:
        connection.send(new_bucket(endpoint).uri)
        connection.recv()


def measure(arguments: argparse.Namespace, store: Store, scratch: Path) -> None:
    """A trial in a folder and one in a store, fold by fold in turns."""
    planted = PlantedMarket(
        n_clusters=5, names_per_cluster=arguments.names // 5, n_bars=arguments.bars
    )
    panel = simulate(planted, 1).panel
    settings = load_settings(
        None,
        {
            "training": {"epochs": arguments.epochs},
            "walk_forward": {"train_bars": 252, "test_bars": 63},
        },
        {},
    )
    trial = Trial("default", {}, settings, tuple(folds_from(settings, panel.n_bars)))
    last = last_price_bars(panel)
    counted: list[int] = []
    put, delete = Store.put, Store.delete
    Store.put = lambda self, k, d: (counted.append(len(d)), put(self, k, d))[1]  # type: ignore
    Store.delete = lambda self, k: delete(self, [x for x in k if counted.append(0) is None])  # type: ignore
    plain = TrialRun(trial, panel, scratch / "plain", last)
    kept = Mirror(scratch / "kept", store)
    mirrored = TrialRun(trial, panel, kept.folder, last)
    folds, pushes, requests, sizes = [], [], [], []
    while not plain.done:
        folds.append(seconds(plain.advance))
        mirrored.advance()
        counted.clear()
        pushes.append(seconds(kept.push))
        requests.append(len(counted))
        sizes.append(sum(counted))
    middle = statistics.median
    fold, push = middle(folds[:-1]), middle(pushes[:-1])  # the last one joins all folds
    print(f"{arguments.names} names, {len(folds)} folds, load {os.getloadavg()[0]:.1f}")
    print(f"fold in a folder        {fold:.3f} s (median)")
    print(f"push of it to the store {push:.3f} s (median), {push / fold:.1%} of the fold")
    print(
        f"a push is {middle(requests[:-1]):.0f} requests and {middle(sizes[:-1]) / 1e3:.0f} kB; "
        f"the last {requests[-1]} requests and {sizes[-1] / 1e3:.0f} kB in {pushes[-1]:.3f} s"
    )


def seconds(action: object) -> float:
    """How long a call took."""
    begun = time.perf_counter()
    action()  # type: ignore[operator]
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
