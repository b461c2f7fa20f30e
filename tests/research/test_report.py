"""The report says what the tables say, works on any run, and needs nothing but itself."""

import dataclasses
import math
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from dpa.config import CostConfig
from dpa.research.report import verdict, write_report
from dpa.research.report.grid_pictures import (
    fold_sharpes,
    heat_maps,
    rank_persistence,
    slices,
    trials_against_noise,
)
from dpa.research.report.style import MOST_POINTS, bucket_means, bucket_starts, number, percent
from dpa.research.report.trial_pictures import (
    MOST_DATES,
    MOST_NAMES,
    cost_attribution,
    sampled_clusters,
    wealth_and_drawdown,
    wealth_at_equal_risk,
)
from dpa.research.report.words import caveats
from dpa.research.results import read_run, search_statistics, write_grid_csv
from tests.html_page import Page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


def page_of(directory):
    return Page(write_report(directory.path).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full_page(full_run):
    return page_of(full_run)


def test_the_page_refers_to_nothing_outside_itself(full_page, full_run):
    assert set(full_page.addresses) == {"data:,"}  # the icon: none
    html = full_run.report.read_text(encoding="utf-8")
    styles = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in styles
    assert "@import" not in styles
    assert "showSendToCloud: false" in html  # plotly offers to upload charts otherwise
    assert 1e6 < len(html) < 12e6


def test_tables_hold_the_numbers_of_the_csv(full_page, full_run):
    rows = write_grid_csv(read_run(full_run.path)).sort_values("net_sharpe", ascending=False)
    table = full_page.tables["grid"]
    head = [title.strip() for title in table[0]]
    assert len(table) == 1 + len(rows)
    for title, column, form in (
        ("net Sharpe", "net_sharpe", "{:.2f}"),
        ("± s.e.", "net_sharpe_se", "{:.2f}"),
        ("max drawdown", "max_drawdown", "{:.1%}"),
        ("cost", "cost", "{:.1%}"),
        ("DSR", "dsr", "{:.3f}"),
        ("window", "window", "{}"),
    ):
        shown = [line[head.index(title)] for line in table[1:]]
        assert shown == [form.format(value) for value in rows[column]]


def test_baselines_stand_below_the_best_trial(full_page, full_run):
    run = read_run(full_run.path)
    table = full_page.tables["baselines"]
    expected = [run.best, *run.baselines]
    assert [line[0] for line in table[1:]] == ["best trial", *(b.name for b in run.baselines)]
    assert [line[1] for line in table[1:]] == [
        f"{trial.summary['net_sharpe']:.2f}" for trial in expected
    ]


def test_folds_of_the_best_trial_are_listed(full_page, full_run):
    best = read_run(full_run.path).best
    table = full_page.tables["folds"]
    net = table[0].index("test, net")
    assert [line[net] for line in table[1:]] == [f"{v:.2f}" for v in best.folds["net_sharpe"]]


def test_the_verdict_of_noise_is_no(full_page, full_run):
    run = read_run(full_run.path)
    found = verdict(run, search_statistics(run))
    assert found.answer.startswith("No:")
    assert f"{run.best.summary['net_sharpe']:.2f} ±" in found.reason
    assert "best of 27 trials without skill" in found.reason
    assert found.answer in full_page.text


def test_the_verdict_of_planted_skill_is_yes(make_run):
    run = read_run(make_run(axes={"window": (60,)}, skill=0.4, n_bars=1260).path)
    assert verdict(run, search_statistics(run)).answer.startswith("Yes:")


def test_no_verdict_without_every_baseline(make_run):
    run = read_run(make_run(axes={"window": (60,)}, skill=0.4, baselines=()).path)
    assert verdict(run, search_statistics(run)).answer.startswith("No verdict:")


def test_a_partial_run_says_so_and_shows_its_failures(partial_run):
    page = page_of(partial_run)
    assert "so far (4 of 27 trials)" in page.text
    assert "interrupted" in page.text
    assert ["window-30_n_clusters-5_similarity_threshold-0.5",
            "ValueError: <planted> & fatal"] in page.tables["failed"]  # fmt: skip
    status = page.tables["grid"][0].index("status")
    states = [line[status] for line in page.tables["grid"][1:]]
    assert states.count("done") == 4
    assert states.count("failed") == 1
    assert states.count("incomplete") == 22


def test_a_grid_that_only_failed_still_has_a_report(make_run):
    page = page_of(make_run(axes={"window": (30, 60)}, failed=(0, 1), baselines=()))
    assert "Nothing to judge: no trial has results (2 of 2 failed)." in page.text
    assert len(page.tables["failed"]) == 3
    assert "statistics" not in page.tables


def test_baselines_are_shown_without_any_trial(make_run):
    page = page_of(make_run(axes={"window": (30,)}, failed=(0,)))
    assert [line[0] for line in page.tables["baselines"][1:]] == [
        "equal_weight", "kmeans_fixed", "pca_sscore",
    ]  # fmt: skip


def test_one_trial_has_no_search_to_deflate_for(make_run):
    page = page_of(make_run(axes={"window": (60,)}, source="sample"))
    assert "one trial: nothing was picked" in page.text
    assert "the sample holds 20 companies that are large today" in page.text
    names = [line[0] for line in page.tables["statistics"]]
    assert "Probability of backtest overfitting" not in names


def test_a_run_that_has_not_begun_has_a_report(make_run):
    page = page_of(make_run(axes={"window": (30, 60)}, absent=(0, 1), baselines=()))
    assert "Nothing to judge: no trial has results (0 of 2 failed)." in page.text


@pytest.mark.parametrize(
    ("axes", "panels"),
    [
        ({"window": (30, 60), "n_clusters": (5, 10)}, 1),
        ({"window": (30, 60), "n_clusters": (5, 10), "max_age": (None, 30)}, 2),
        ({"window": (30, 60), "features": ("returns", "price_path"), "dollar_neutral": (True,),
          "n_clusters": (5, 10), "max_age": (None, 30)}, 2),
    ],
)  # fmt: skip
def test_heat_maps_show_the_trials(make_run, axes, panels):
    run = read_run(make_run(axes=axes, n_bars=100, n_names=3, baselines=()).path)
    figure = heat_maps(run)
    drawn = np.concatenate([trace.z.ravel() for trace in figure.data])
    sharpes = [trial.summary["net_sharpe"] for trial in run.trials]
    assert len(figure.data) == panels
    assert np.mean(drawn) == pytest.approx(np.mean(sharpes))
    if len(drawn) == len(sharpes):
        assert sorted(drawn) == pytest.approx(sorted(sharpes))


def test_a_cell_of_the_heat_map_is_its_trial(full_run):
    run = read_run(full_run.path)
    figure = heat_maps(run)
    for trial in run.trials:
        point = trial.parameters
        panel = (30, 60, 90).index(point["window"])
        row = (0.3, 0.5, 0.7).index(point["similarity_threshold"])
        column = (5, 10, 20).index(point["n_clusters"])
        assert figure.data[panel].z[row][column] == trial.summary["net_sharpe"]


def test_failed_points_are_named_in_the_heat_map(partial_run):
    texts = [note.text for note in heat_maps(read_run(partial_run.path)).layout.annotations]
    assert texts.count("failed") == 1
    assert texts.count("–") == 20


def test_pictures_of_one_axis(make_run):
    run = read_run(make_run(axes={"window": (30, 60, 90)}, n_bars=100).path)
    assert heat_maps(run) is None
    dots, line = slices(run).data
    assert list(line.y) == [trial.summary["net_sharpe"] for trial in run.trials]
    assert len(dots.x) == 3


def test_noise_line_is_the_expected_maximum(full_run):
    run = read_run(full_run.path)
    search = search_statistics(run)
    figure = trials_against_noise(run, search)
    line = next(trace for trace in figure.data if trace.name.startswith("best of 27"))
    assert line.y[0] == search.expected_max_sharpe
    assert np.all(np.diff(figure.data[0].y) >= 0)


def test_wealth_and_drawdown_keep_the_worst_moment_when_thinned(make_run):
    run = read_run(make_run(axes={"window": (60,)}, n_bars=2100, n_names=2).path)
    figure = wealth_and_drawdown(run, run.best)
    wealth, fall = (trace for trace in figure.data if trace.name == "best trial")
    assert len(wealth.y) == MOST_POINTS
    assert wealth.y[-1] == pytest.approx((1 + run.best.returns["net"]).prod())
    assert min(fall.y) == pytest.approx(-run.best.summary["max_drawdown"])


def test_slopes_at_equal_risk_are_the_sharpe_ratios(full_run):
    run = read_run(full_run.path)
    years = len(run.best.returns) / run.periods_per_year
    slopes = {
        track.name: track.y[-1] / years / 0.10 for track in wealth_at_equal_risk(run, run.best).data
    }
    expected = {baseline.name: baseline.summary["net_sharpe"] for baseline in run.baselines}
    assert slopes == pytest.approx(expected | {"best trial": run.best.summary["net_sharpe"]})


def test_no_minus_before_nothing():
    assert number(-0.004) == "0.00"
    assert percent(-0.0004) == "0.0%"
    assert percent(-0.0006) == "-0.1%"
    assert number(float("nan")) == "–"


def test_costs_add_up_from_gross_to_net(full_run):
    run = read_run(full_run.path)
    bars = cost_attribution(run, run.best).data[0]
    net = run.best.returns["net"].mean() * run.periods_per_year
    assert sum(bars.y) == pytest.approx(net)


def test_clusters_are_sampled_evenly_and_sorted_by_home():
    rng = np.random.default_rng(0)
    home = np.repeat(np.arange(10), 20)
    ids = np.where(rng.random((1000, 200)) < 0.2, -1, home)
    ids[:, 0] = -1  # never in a cluster
    names = [f"N{i}" for i in range(200)]
    frame = pd.DataFrame(ids.astype(np.int16), columns=names)
    shuffled = frame[list(rng.permutation(names))]
    some = sampled_clusters(shuffled)
    assert some.shape == (MOST_DATES, MOST_NAMES)
    homes = [int(name[1:]) // 20 for name in some.columns]
    assert homes == sorted(homes)
    assert set(homes) == set(range(10))
    assert "N0" not in some.columns


def test_rank_persistence_of_steady_and_of_reversing_trials(make_run):
    directory = make_run(axes={"window": (10, 20, 30, 40)}, n_bars=300)
    for place, name in enumerate(directory.trial_names()):
        path = directory.trial(name) / "folds.csv"
        rows = pd.read_csv(path)
        rows["net_sharpe"] = place
        rows.to_csv(path, index=False)
    assert rank_persistence(read_run(directory.path)) == pytest.approx(1.0)
    for place, name in enumerate(directory.trial_names()):
        path = directory.trial(name) / "folds.csv"
        rows = pd.read_csv(path)
        rows["net_sharpe"] = place * (-1.0) ** rows["fold"]
        rows.to_csv(path, index=False)
    assert rank_persistence(read_run(directory.path)) == pytest.approx(-1.0)


def test_rank_persistence_needs_three_trials(make_run):
    run = read_run(make_run(axes={"window": (10, 20)}, n_bars=200).path)
    assert math.isnan(rank_persistence(run))
    assert fold_sharpes(run).shape == (2, 4)


def test_buckets_cover_every_bar_once():
    values = np.arange(1003.0)
    starts = bucket_starts(1003, 100)
    widths = np.diff(np.append(starts, 1003))
    assert set(widths) == {10, 11}
    np.testing.assert_allclose(
        bucket_means(values, starts), [p.mean() for p in np.split(values, starts[1:])]
    )
    assert bucket_starts(3, 100).tolist() == [0, 1, 2]


def test_every_picture_draws_offline_in_a_browser(partial_run, tmp_path):
    if BROWSER is None:
        pytest.skip("no chromium to open the report with")
    report = write_report(partial_run.path)
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000",
        "--enable-logging=stderr", "--dump-dom", report.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    pictures = done.stdout.count('class="plot js-plotly-plot"')
    assert complaints == []
    assert pictures == done.stdout.count('<div id="picture-') > 5
    assert "ERR_" not in done.stderr


@pytest.mark.parametrize(
    ("booked", "said"),
    [(0.0, "here 1 times (delisting_return 0)"), (-0.3, "here 0.7 times (delisting_return -0.3)")],
)
def test_caveats_say_what_a_delisted_name_is_paid(full_run, booked, said):
    run = read_run(full_run.path)
    costs = CostConfig(delisting_return=booked)
    settings = run.manifest.settings.model_copy(update={"costs": costs})
    manifest = run.manifest.model_copy(update={"settings": settings})
    [caveat] = [c for c in caveats(dataclasses.replace(run, manifest=manifest)) if said in c]
    assert "its last price times (1 + delisting_return)" in caveat
    assert ("flatters" in caveat) == (booked == 0)
