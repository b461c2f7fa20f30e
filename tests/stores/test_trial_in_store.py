"""A trial that goes on from a store on another node, wherever it was lost."""

import shutil
from pathlib import Path

import pytest

from dpa.config import load_settings
from dpa.market.panel import Panel
from dpa.research.grid import Trial, folds_from
from dpa.research.single import last_price_bars
from dpa.research.trials import TrialRun
from dpa.simulation.planted import PlantedMarket, simulate
from dpa.stores.mirror import Mirror
from dpa.stores.store import Store, StoreAway
from tests.s3_server import Bucket

OF_THE_MACHINE = ("folds.csv", "summary.json")  # seconds and memory are in them


@pytest.fixture(scope="module")
def panel() -> Panel:
    return simulate(PlantedMarket(n_clusters=2, names_per_cluster=3, n_bars=170), 3).panel


@pytest.fixture(scope="module")
def trial(panel: Panel) -> Trial:
    tree = {
        "model": {"window": 10, "n_clusters": 2},
        "training": {"epochs": 1},
        "walk_forward": {"train_bars": 40, "test_bars": 20},
    }
    settings = load_settings(None, tree, {})
    return Trial("default", {}, settings, tuple(folds_from(settings, panel.n_bars)))


@pytest.fixture(scope="module")
def undisturbed(trial: Trial, panel: Panel, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    run = TrialRun(trial, panel, folder, last_price_bars(panel))
    while not run.done:
        run.advance()
    return files_of(folder)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in OF_THE_MACHINE
    }


def on_a_node(trial: Trial, panel: Panel, mirror: Mirror, folds: int) -> tuple[int, bool]:
    """Work as a worker does for some folds, then lose the node; folds begun with, and the end."""
    mirror.pull()
    run = TrialRun(trial, panel, mirror.folder, last_price_bars(panel))
    begun = run.folds_done
    for _ in range(folds):
        run.advance()
        mirror.push()
    done = run.done
    shutil.rmtree(mirror.folder)
    return begun, done


def test_every_fold_on_another_node_gives_the_same_bytes(
    trial: Trial, panel: Panel, undisturbed: dict[str, bytes], bucket: Bucket, tmp_path: Path
) -> None:
    assert len(trial.folds) >= 3
    for node in range(len(trial.folds)):
        mirror = Mirror(tmp_path / f"node{node}", bucket.store)
        begun, done = on_a_node(trial, panel, mirror, 1)
        assert begun == node, "a kept fold is not done again"
        assert done == (node == len(trial.folds) - 1)
    last = Mirror(tmp_path / "driver", bucket.store)
    assert last.pull()
    assert files_of(last.folder) == undisturbed
    kept = {name for name in bucket.store.sizes() if not name.startswith(".")}
    assert {name for name in kept if name not in OF_THE_MACHINE} == set(undisturbed)


def test_a_node_lost_while_it_pushes_costs_that_fold(
    trial: Trial,
    panel: Panel,
    undisturbed: dict[str, bytes],
    bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_a_node(trial, panel, Mirror(tmp_path / "first", bucket.store), 1)
    put = Store.put

    def dying(store: Store, key: str, data: bytes) -> None:
        if key.endswith("progress.json"):
            raise StoreAway("gone")
        put(store, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", dying)
        with pytest.raises(StoreAway):
            on_a_node(trial, panel, Mirror(tmp_path / "second", bucket.store), 1)
    third = Mirror(tmp_path / "third", bucket.store)
    begun, done = on_a_node(trial, panel, third, len(trial.folds) - 1)
    assert (begun, done) == (1, True)
    third.pull()
    assert files_of(third.folder) == undisturbed
