"""A trial on disk: whatever ends it, it goes on at the fold it lost, to the same bytes."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from dpa.config import ClusterConfig, Settings, TrainingConfig, WalkForwardConfig
from dpa.market.panel import Panel
from dpa.research.grid import Grid, Trial, plan_trials
from dpa.research.trials import (
    ERROR,
    SUMMARY,
    TrialRun,
    newest_state,
    numbers,
    record_failure,
    reset_process,
)
from dpa.simulation.planted import PlantedMarket, simulate

BYTES_THAT_COUNT = ("returns.parquet", "weights.parquet", "clusters.parquet")


@pytest.fixture(scope="module")
def panel() -> Panel:
    return simulate(PlantedMarket(n_clusters=2, names_per_cluster=4, n_bars=170), 3).panel


@pytest.fixture(scope="module")
def trial(panel: Panel) -> Trial:
    settings = Settings(
        model=ClusterConfig(window=10, n_clusters=2),
        training=TrainingConfig(epochs=2),
        walk_forward=WalkForwardConfig(train_bars=40, test_bars=30),
    )
    return plan_trials(Grid(settings, {"window": (10,)}), panel.n_bars)[0]


def begin(trial: Trial, panel: Panel, folder: Path) -> TrialRun:
    return TrialRun(trial, panel, folder, np.full(panel.n_assets, panel.n_bars - 1))


def finish(run: TrialRun) -> None:
    while not run.done:
        run.advance()


@pytest.fixture(scope="module")
def undisturbed(trial: Trial, panel: Panel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "trial"
    finish(begin(trial, panel, folder))
    return folder


def same_results(left: Path, right: Path) -> bool:
    same = [(left / name).read_bytes() == (right / name).read_bytes() for name in BYTES_THAT_COUNT]
    models = [(p / "checkpoint" / "model.safetensors").read_bytes() for p in (left, right)]
    return all(same) and models[0] == models[1]


def test_a_finished_trial_leaves_the_agreed_files_only(undisturbed: Path) -> None:
    assert sorted(p.name for p in undisturbed.iterdir()) == sorted(
        [*BYTES_THAT_COUNT, "checkpoint", "folds.csv", "params.json", SUMMARY]
    )


@pytest.mark.parametrize("folds", [1, 2, 3])
def test_a_trial_that_lost_its_process_ends_in_the_same_bytes(
    folds: int, trial: Trial, panel: Panel, undisturbed: Path, tmp_path: Path
) -> None:
    lost = begin(trial, panel, tmp_path)
    for _ in range(folds):
        lost.advance()
    lost.trainer.step()  # a fold whose state was never saved: it is redone
    half = tmp_path / "state" / f".{folds + 1:05d}"
    half.mkdir()
    (half / "progress.json").write_text("{")
    again = begin(trial, panel, tmp_path)
    assert again.trainer.folds_done == folds
    finish(again)
    assert same_results(tmp_path, undisturbed)


def test_a_trial_lost_between_last_fold_and_summary_is_only_summed_up(
    trial: Trial, panel: Panel, undisturbed: Path, tmp_path: Path
) -> None:
    lost = begin(trial, panel, tmp_path)
    while lost.trainer.folds_done < lost.trainer.n_folds - 1:
        lost.advance()
    state = newest_state(tmp_path / "state")
    assert state is not None
    lost.trainer.step()
    lost.trainer.save(state.with_name("00099"))
    again = begin(trial, panel, tmp_path)
    assert again.advance() is None
    assert again.done
    assert same_results(tmp_path, undisturbed)


def test_a_new_attempt_forgets_the_old_error(trial: Trial, panel: Panel, tmp_path: Path) -> None:
    try:
        raise ValueError("first line\nlast line")
    except ValueError as e:
        record_failure(tmp_path, e)
    assert (tmp_path / ERROR).read_text().rstrip().endswith("last line")
    begin(trial, panel, tmp_path)
    assert not (tmp_path / ERROR).exists()


def test_every_generator_starts_anew() -> None:
    reset_process(5)
    first = (torch.rand(1).item(), np.random.rand(), random.random())
    reset_process(5)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == first
    assert torch.get_num_threads() == 1


def test_no_report_has_no_numbers() -> None:
    assert numbers(None) == {}
