"""Figures of a run against other libraries and by hand; reading runs in every state."""

import math

import ffn
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dpa.errors import RunError
from dpa.research.results import (
    RESULT_COLUMNS,
    read_run,
    search_statistics,
    sharpe_difference_error,
    summarise_trial,
    write_grid_csv,
)


def test_summary_agrees_with_ffn_and_plain_arithmetic(full_run):
    run = read_run(full_run.path)
    trial = run.trials[0]
    net = trial.returns["net"]
    wealth = (1 + net).cumprod()
    found = summarise_trial(trial.returns, 252)
    assert found["net_sharpe"] == pytest.approx(ffn.calc_sharpe(net, nperiods=252))
    assert found["max_drawdown"] == pytest.approx(-ffn.calc_max_drawdown(wealth), rel=1e-3)
    assert found["annual_return"] == pytest.approx(wealth.iloc[-1] ** (252 / len(net)) - 1)
    assert found["annual_volatility"] == pytest.approx(net.std() * 252**0.5)
    assert found["cost"] == pytest.approx(252 * (trial.returns["gross"] - net).mean())
    assert found["turnover"] == pytest.approx(trial.returns["turnover"].mean())
    assert found["hit_rate"] == pytest.approx((net > 0).mean())
    assert 0.2 < found["net_sharpe_se"] / math.sqrt(252 / len(net)) < 2


def test_too_few_bars_have_no_figures(full_run):
    returns = read_run(full_run.path).trials[0].returns
    found = summarise_trial(returns.iloc[:19], 252)
    assert found["bars"] == 19
    assert math.isnan(found["net_sharpe"])


def test_the_table_has_the_agreed_columns_and_a_row_for_every_point(make_run):
    axes = {"window": (30, 60, 90), "n_clusters": (5, 10)}
    directory = make_run(axes=axes, failed=(1,), incomplete=(3,), absent=(5,), status="interrupted")
    rows = write_grid_csv(read_run(directory.path))
    stored = pd.read_csv(directory.results_csv)
    assert list(stored.columns) == ["trial_id", *axes, *RESULT_COLUMNS]
    assert len(stored) == 6
    assert stored["trial_id"].is_unique
    assert list(stored["status"].iloc[[0, 1, 3, 5]]) == [
        "done", "failed", "incomplete", "incomplete",
    ]  # fmt: skip
    assert stored["error"].iloc[1] == "ValueError: <planted> & fatal"
    assert stored["folds"].iloc[[0, 3, 5]].tolist() == [10, 4, 0]
    assert stored["bars"].iloc[[0, 1, 3, 5]].tolist() == [630, 0, 252, 0]
    assert np.isnan(stored["net_sharpe"].iloc[[1, 5]]).all()
    pd.testing.assert_series_equal(stored["net_sharpe"], rows["net_sharpe"])
    baselines = pd.read_csv(directory.baselines_csv)
    assert list(baselines.columns) == list(stored.columns)
    assert list(baselines["trial_id"]) == ["equal_weight", "kmeans_fixed", "pca_sscore"]
    assert baselines["dsr"].isna().all()


def test_only_finished_trials_are_judged_once_there_are_any(make_run):
    run = read_run(
        make_run(axes={"window": (10, 20, 30, 40, 50)}, incomplete=(3,), failed=(4,)).path
    )
    names = {trial.name for trial in run.judged}
    assert run.trials[3].name not in names
    assert run.trials[4].name not in names
    assert len(names) == 3
    assert run.best.summary["net_sharpe"] == max(t.summary["net_sharpe"] for t in run.judged)


def test_unfinished_trials_are_judged_while_there_is_nothing_else(make_run):
    run = read_run(make_run(axes={"window": (30, 60)}, incomplete=(0, 1)).path)
    assert len(run.judged) == 2
    assert run.net_returns().shape == (252, 2)
    assert len(run.trials[0].folds) == 4
    assert run.trials[0].frame("clusters").shape == (252, 24)
    assert run.trials[0].frame("weights") is None


def test_a_trial_killed_before_its_summary_is_incomplete_with_all_its_folds(make_run):
    directory = make_run(axes={"window": (30,)})
    (directory.trial("window-30") / "summary.json").unlink()
    trial = read_run(directory.path).trials[0]
    assert trial.status == "incomplete"
    assert trial.summary["folds"] == 10


def test_deflation_by_hand(full_run):
    run = read_run(full_run.path)
    found = search_statistics(run)
    per_bar = np.array([t.returns["net"].mean() / t.returns["net"].std() for t in run.trials])
    quantiles = stats.norm.ppf([1 - 1 / 27, 1 - 1 / (27 * math.e)])
    noise = per_bar.std(ddof=1) * ((1 - np.euler_gamma) * quantiles[0]
                                   + np.euler_gamma * quantiles[1])  # fmt: skip
    assert found.n_trials == 27
    assert found.expected_max_sharpe == pytest.approx(noise * math.sqrt(run.periods_per_year))
    net = run.best.returns["net"]
    sharpe = per_bar.max()
    variance = 1 - stats.skew(net) * sharpe + (stats.kurtosis(net) + 2) / 4 * sharpe**2
    expected = stats.norm.cdf((sharpe - noise) * math.sqrt((len(net) - 1) / variance))
    assert found.dsr[run.best.name] == pytest.approx(expected)
    assert 1 < found.effective_trials <= 27
    assert 0 <= found.overfitting.probability <= 1


def test_failed_and_unfinished_trials_are_trials_too(make_run):
    run = read_run(
        make_run(axes={"window": (10, 20, 30, 40, 50, 60)}, failed=(0,), incomplete=(2,)).path
    )
    found = search_statistics(run)
    assert (found.n_trials, found.judged_trials) == (6, 4)
    per_bar = [t.returns["net"].mean() / t.returns["net"].std() for t in run.judged]
    quantiles = stats.norm.ppf([1 - 1 / 6, 1 - 1 / (6 * math.e)])
    weights = [1 - np.euler_gamma, np.euler_gamma]
    luck = np.std(per_bar, ddof=1) * np.dot(weights, quantiles)
    assert found.expected_max_sharpe == pytest.approx(luck * math.sqrt(run.periods_per_year))


def test_luck_of_one_result_among_many_trials_is_that_of_noise(make_run):
    run = read_run(make_run(axes={"window": tuple(range(10, 37))}, absent=range(1, 27)).path)
    found = search_statistics(run)
    assert (found.n_trials, found.judged_trials) == (27, 1)
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(400, 27, len(run.best.returns)))
    highest = (noise.mean(axis=2) / noise.std(axis=2, ddof=1)).max(axis=1)
    luck = found.expected_max_sharpe / math.sqrt(run.periods_per_year)
    assert luck == pytest.approx(highest.mean(), rel=0.05)


def test_noise_is_not_called_skill_and_skill_is(make_run, full_run):
    noise = search_statistics(read_run(full_run.path))
    assert max(noise.dsr.values()) < 0.95
    skilled = read_run(make_run(axes={"window": tuple(range(10, 19))}, skill=0.3, n_bars=1260).path)
    found = search_statistics(skilled)
    assert found.dsr[skilled.best.name] > 0.95
    assert found.overfitting.probability < 0.05


def test_error_of_a_sharpe_difference_covers_what_is_seen_in_simulation():
    rng = np.random.default_rng(0)
    n_bars, differences, claimed = 250, [], []
    for _ in range(2000):
        common = rng.normal(size=n_bars)
        a = 0.08 + 0.8 * common + 0.6 * rng.normal(size=n_bars)
        b = 0.02 + 0.8 * common + 0.6 * rng.normal(size=n_bars)
        differences.append(a.mean() / a.std(ddof=1) - b.mean() / b.std(ddof=1))
        claimed.append(sharpe_difference_error(a, b))
    assert np.mean(claimed) == pytest.approx(np.std(differences), rel=0.05)


def test_comparison_takes_luck_off_first(full_run):
    run = read_run(full_run.path)
    found = search_statistics(run)
    for comparison, baseline in zip(found.comparisons, run.baselines, strict=True):
        difference = run.best.summary["net_sharpe"] - baseline.summary["net_sharpe"]
        assert comparison.sharpe_difference == pytest.approx(difference)
        z = (difference - found.expected_max_sharpe) / comparison.standard_error
        assert comparison.probability == pytest.approx(stats.norm.cdf(z))


def test_one_trial_is_not_deflated(make_run):
    run = read_run(make_run(axes={"window": (60,)}).path)
    found = search_statistics(run)
    assert found.expected_max_sharpe == 0.0
    assert found.overfitting is None
    assert found.dsr[run.best.name] == pytest.approx(run.best.summary["psr"])


def test_a_grid_that_only_failed_has_no_best(make_run):
    run = read_run(make_run(axes={"window": (30, 60)}, failed=(0, 1)).path)
    assert run.best is None
    assert search_statistics(run) is None
    assert run.net_returns().empty
    assert set(write_grid_csv(run)["status"]) == {"failed"}


def test_a_flat_trial_is_a_row_not_an_error(make_run):
    directory = make_run(axes={"window": (30, 60)})
    path = directory.trial("window-30") / "returns.parquet"
    flat = pd.read_parquet(path)
    flat.loc[:, flat.columns != "fold"] = 0.0
    flat.to_parquet(path)
    run = read_run(directory.path)
    found = search_statistics(run)
    assert run.trials[0].summary["net_sharpe"] == 0.0
    assert math.isfinite(found.dsr["window-30"])


def test_damage_is_reported_with_the_file(make_run):
    directory = make_run(axes={"window": (30,)})
    (directory.trial("window-30") / "summary.json").write_text("{")
    with pytest.raises(RunError, match=r"summary\.json"):
        read_run(directory.path)
    (directory.trial("window-30") / "summary.json").unlink()
    (directory.trial("window-30") / "returns.parquet").write_text("not parquet")
    with pytest.raises(RunError, match="cannot be read"):
        read_run(directory.path)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="manifest"):
        read_run(tmp_path)
