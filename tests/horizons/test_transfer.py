"""Trained on one interval, validated on another, against direct computations."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dpa.config import HorizonsConfig, load_settings
from dpa.errors import ConfigError, DataError
from dpa.horizons import transfer as transfers
from dpa.horizons.dataset import BlockSpan, make_block
from dpa.horizons.families import RidgeFamily
from dpa.horizons.recipe import Recipe
from dpa.horizons.training import clipped
from dpa.horizons.transfer import (
    FAILS,
    NOTHING,
    TRANSFERS,
    UNSURE,
    ResampledSource,
    Side,
    at_interval,
    common_features,
    common_horizons,
    fit_fold,
    plan_sides,
    run_transfer,
    session_means,
    training_rows,
    verdict,
)
from dpa.market.interval_specs import get_interval_spec
from dpa.market.panel import EXTRAS, Panel
from dpa.market.resampling import resample
from dpa.market.session_grid import GridSource, on_session_grid
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars
from dpa.validation.information import ICEstimate
from dpa.validation.purge import holdout, session_folds

FEATURES = (
    "return_scaled_5m",
    "return_rank_30m",
    "residual_market_60m",
    "close_location_5m",
    "volume_surprise_5m",
    "session_left",
)
MARKET = IntradayMarket(
    n_clusters=2, names_per_cluster=4, n_sessions=11, interval="1m", start="2024-06-24"
)
LAG = 2


@pytest.fixture(scope="module")
def minutes() -> Panel:
    return simulate_bars(MARKET, 5).panel


@pytest.fixture(scope="module")
def source(minutes) -> GridSource:
    return GridSource(minutes)


def settings_of(**horizons):
    tree = {
        "horizons": ("5m", "30m"),
        "feature_list": FEATURES,
        "sigma_minutes": 390,
        "train_sessions": 4,
        "test_sessions": 2,
        "sessions_per_block": 2,
        **horizons,
    }
    return load_settings(None, {"horizons": tree, "walk_forward": {"execution_lag": LAG}}, {})


@pytest.fixture(scope="module")
def settings():
    return settings_of()


@pytest.fixture(scope="module")
def result(settings, source):
    return run_transfer(settings, "ridge", at_interval(source, "5m"), source)


def irregular(panel: Panel) -> Panel:
    """Begins and ends in the midst of a session and of a bar, and has gaps."""
    kept = np.r_[17:300, 320:321, 395:1100, 1200 : panel.n_bars - 33]
    extras = {name: values[kept] for name, values in panel.extras().items()}
    return Panel(
        panel.times[kept], panel.names, panel.prices[kept], panel.mask[kept], "1m", "XNYS", **extras
    )


class TestResampledSource:
    @pytest.mark.parametrize("length", ["5m", "15m", "1d"])
    @pytest.mark.parametrize("gaps", [False, True])
    def test_windows_are_those_of_the_whole(self, minutes, length, gaps):
        panel = irregular(minutes) if gaps else minutes
        whole = resample(on_session_grid(panel), length)
        source = ResampledSource(GridSource(panel), length)
        assert (source.n_bars, source.interval) == (whole.n_bars, length)
        assert (source.names, source.calendar) == (whole.names, whole.calendar)
        pd.testing.assert_index_equal(source.times(), whole.times, check_names=False)
        cuts = sorted({0, 1, source.n_bars // 3, source.n_bars - 1, source.n_bars})
        for start in cuts:
            for stop in (cut for cut in cuts if cut >= start):
                found, wanted = source.window(start, stop), whole.window(start, stop)
                np.testing.assert_array_equal(found.prices, wanted.prices)
                np.testing.assert_array_equal(found.mask, wanted.mask)
                assert list(found.times) == list(wanted.times)
                for name in EXTRAS:
                    np.testing.assert_array_equal(found.extras()[name], wanted.extras()[name])

    def test_refusals(self, minutes, source):
        with pytest.raises(DataError, match="do not make bars"):
            ResampledSource(GridSource(resample(minutes, "5m")), "1m")
        with pytest.raises(DataError, match="no whole bar of 1d"):
            ResampledSource(GridSource(minutes.window(0, 100)), "1d")
        with pytest.raises(DataError, match="outside"):
            ResampledSource(source, "5m").window(3, 10**6)

    def test_the_same_interval_is_the_source_itself(self, source):
        assert at_interval(source, "1m") is source


def direct(settings, panels: dict[str, Panel], train: str) -> dict[str, np.ndarray]:
    """IC by bar over all tests, from whole histories in memory and scipy's correlation."""
    recipes, blocks = {}, {}
    for interval, panel in panels.items():
        held = tuple(panel.extras())
        recipe = Recipe(settings, panel.names, interval, "XNYS", held, FEATURES)
        recipes[interval] = recipe
        blocks[interval] = make_block(panel, recipe, BlockSpan(0, panel.n_bars))
    recipe, config = recipes[train], settings.horizons
    dates = {i: p.times.tz_convert("America/New_York").date for i, p in panels.items()}
    session = pd.factorize(dates[train])[0]
    reach = recipe.feature_set().reach
    out: dict[str, list] = {interval: [] for interval in panels}
    for fold in session_folds(session, 4, 2, recipe.purge, reach):
        stop, later = holdout(fold.train_start, fold.train_stop, config.holdout, recipe.purge)
        model = RidgeFamily(recipe.schema(), settings.families)
        rows = clipped(blocks[train].rows(fold.train_start, stop), config.target_clip)
        kept = clipped(blocks[train].rows(later, fold.train_stop), config.target_clip)
        model.fit(rows, kept, 0)
        tested = set(dates[train][fold.test_start : fold.test_stop])
        for interval, block in blocks.items():
            for bar in np.flatnonzero([date in tested for date in dates[interval]]):
                names = np.flatnonzero(block.usable[bar])
                said = model.predict(block.features[bar, names]).returns
                ics = []
                for place in range(2):
                    outcome = block.targets[bar, names, place]
                    known = np.isfinite(outcome)
                    enough = known.sum() >= 5
                    pair = said[known, place], outcome[known]
                    ics.append(stats.spearmanr(*pair).statistic if enough else np.nan)
                out[interval].append(ics)
    return {interval: np.array(ics) for interval, ics in out.items()}


def test_both_ics_are_those_of_a_direct_computation(settings, minutes, result):
    ics = direct(settings, {"5m": resample(minutes, "5m"), "1m": minutes}, "5m")
    assert [row.horizon for row in result.horizons] == ["5m", "30m"]
    assert len(result.folds) == 3
    for place, row in enumerate(result.horizons):
        for interval, estimate in (("5m", row.train), ("1m", row.validate)):
            known = ics[interval][:, place]
            known = known[np.isfinite(known)]
            assert estimate.n_bars == len(known)
            assert estimate.ic == pytest.approx(known.mean(), abs=1e-12)


def test_training_on_the_fine_bars_is_a_direct_computation_too(settings, minutes, source):
    found = run_transfer(settings, "ridge", source, at_interval(source, "5m"))
    ics = direct(settings, {"1m": minutes, "5m": resample(minutes, "5m")}, "1m")
    for place, row in enumerate(found.horizons):
        assert row.train.ic == pytest.approx(np.nanmean(ics["1m"][:, place]), abs=1e-12)
        assert row.validate.ic == pytest.approx(np.nanmean(ics["5m"][:, place]), abs=1e-12)


def test_the_same_interval_degrades_by_exactly_nothing(settings, source):
    five = at_interval(source, "5m")
    found = run_transfer(settings, "ridge", five, five)
    for row in found.horizons:
        assert (row.degradation.ic, row.train) == (0.0, row.validate)
        assert row.degradation.n_bars == 5  # the sessions tested
    assert found.left_out == {}


def test_degradation_is_the_mean_difference_by_session(settings, minutes, result):
    panels = {"5m": resample(minutes, "5m"), "1m": minutes}
    ics = direct(settings, panels, "5m")
    tested = {str(fold.first_test[0].date()) for fold in result.folds}
    dates = {i: p.times.tz_convert("America/New_York").strftime("%F") for i, p in panels.items()}
    first = min(tested)
    for place, row in enumerate(result.horizons):
        means = {}
        for interval, values in ics.items():
            days = dates[interval][dates[interval] >= first]
            means[interval] = pd.Series(values[:, place]).groupby(list(days)).mean()
        change = (means["1m"] - means["5m"]).dropna()
        assert row.degradation.ic == pytest.approx(change.mean(), abs=1e-12)
        assert row.degradation.n_bars == len(change)


def test_nothing_learned_from_reaches_into_the_test_on_either_clock(result):
    for fold in result.folds:
        assert fold.first_row < fold.last_label < min(fold.first_test)
        assert fold.n_rows > 0
    five, one = result.folds[0].first_test
    assert five - one == pd.Timedelta(4, "min")  # closes of the first bars of one session


@pytest.mark.parametrize("train", ["5m", "1m"])
def test_the_future_does_not_change_a_model(settings, minutes, tmp_path, train):
    def model(panel: Panel, folder) -> str:
        source = GridSource(panel)
        side = plan_sides(settings, "ridge", at_interval(source, train), source)[0][0]
        fold = session_folds(side.session, 4, 2, side.recipe.purge, 0)[0]
        folder.mkdir()
        dataset = training_rows(side, fold.train_stop, folder, lambda words: None)
        return fit_fold("ridge", side, dataset, fold)[0].fingerprint()

    later = minutes.prices.copy()
    test = np.searchsorted(pd.factorize(minutes.times.date)[0], 4)
    later[test:] *= np.random.default_rng(0).uniform(0.9, 1.1, later[test:].shape)
    usual = model(minutes, tmp_path / "usual")
    assert model(replace(minutes, prices=later), tmp_path / "altered") == usual
    earlier = minutes.prices.copy()
    earlier[test - 800 : test] *= 1.0001 ** np.arange(800)[:, None]
    assert model(replace(minutes, prices=earlier), tmp_path / "earlier") != usual


def test_only_common_sessions_count(settings, minutes, source):
    late = GridSource(minutes.window(390 * 6, minutes.n_bars))
    found = run_transfer(settings, "ridge", at_interval(source, "5m"), late)
    sides, _ = plan_sides(settings, "ridge", at_interval(source, "5m"), late)
    assert len(sides[1].ends) == 5
    for row in found.horizons:
        assert row.degradation.n_bars == 5 - 1  # a session of look-back comes before the first
        assert row.train.n_bars <= 4 * 78
        assert row.validate.n_bars <= 4 * 390
    apart = GridSource(minutes.window(0, 390 * 3))
    with pytest.raises(DataError, match="no test session in common"):
        run_transfer(settings, "ridge", at_interval(source, "5m"), apart)


def test_memory_is_bounded_by_windows(settings, source, monkeypatch):
    longest = []
    usual = GridSource.window

    def window(self, start, stop):
        longest.append(stop - start)
        return usual(self, start, stop)

    monkeypatch.setattr(GridSource, "window", window)
    run_transfer(settings, "ridge", at_interval(source, "5m"), source)
    block, look_back = 2 * 390, 390 + 65
    assert max(longest) <= look_back + block
    assert max(longest) < 0.35 * source.n_bars


@pytest.mark.parametrize(
    ("train", "validate", "said"),
    [
        ((0.06, 0.01), (0.03, 0.01), TRANSFERS),
        ((0.06, 0.01), (0.0299, 0.01), FAILS),
        ((0.06, 0.01), (0.05, 0.025), FAILS),
        ((0.02, 0.01), (0.05, 0.01), NOTHING),
        ((-0.06, 0.01), (-0.05, 0.01), NOTHING),
        ((0.06, np.nan), (0.05, 0.01), UNSURE),
        ((0.06, 0.01), (np.nan, np.nan), UNSURE),
    ],
)
def test_verdicts(train, validate, said):
    estimates = [ICEstimate(ic, se, ic / se, 100, 50.0) for ic, se in (train, validate)]
    assert verdict(*estimates) == said


def test_horizons_are_exact_on_both():
    one, five, hour = (get_interval_spec(text, None) for text in ("1m", "5m", "1h"))
    assert common_horizons(None, one, five) == ("5m", "10m", "15m", "30m", "60m", "1d")
    assert common_horizons(None, five, hour) == ("60m",)
    assert common_horizons(("30m", "1d"), five, one) == ("30m", "1d")
    with pytest.raises(ConfigError, match="horizon 3m: 3 minutes are"):
        common_horizons(("3m",), one, five)


class TestFeatures:
    def specs(self, *lengths):
        return [get_interval_spec(text, None) for text in lengths]

    def test_what_fits_one_only_is_left_out_and_named(self):
        config = HorizonsConfig()
        chosen, out = common_features(config, self.specs("5m", "15m"), [EXTRAS, EXTRAS], "XNYS")
        assert "return_scaled_5m" in out
        assert out["return_scaled_5m"] == "15m: does not fit bars of 15m"
        assert "return_scaled_15m" in chosen
        assert not any(name.startswith("cluster_") for name in (*chosen, *out))

    def test_what_the_data_of_one_lack_is_left_out(self):
        lacking = tuple(name for name in EXTRAS if name != "volume")
        config = HorizonsConfig()
        chosen, out = common_features(config, self.specs("5m", "5m"), [EXTRAS, lacking], "XNYS")
        assert out["volume_surprise_5m"] == "5m: needs volume"
        assert "return_scaled_5m" in chosen

    def test_what_was_asked_for_is_always_named(self):
        config = HorizonsConfig(feature_list=("return_scaled_30m", "cluster_score"))
        chosen, out = common_features(config, self.specs("5m", "1m"), [EXTRAS, EXTRAS], "XNYS")
        assert chosen == ("return_scaled_30m",)
        assert out == {"cluster_score": "5m: needs a cluster model; 1m: needs a cluster model"}

    def test_none_at_all_is_an_error(self):
        config = HorizonsConfig(feature_list=("cluster_score",))
        with pytest.raises(ConfigError, match="no feature can be computed on both"):
            common_features(config, self.specs("5m", "1m"), [EXTRAS, EXTRAS], "XNYS")


def test_what_cannot_be_done_is_refused(settings, source, minutes):
    fewer = GridSource(replace(minutes, names=tuple(f"{name}x" for name in minutes.names)))
    for action, words in (
        (lambda: run_transfer(settings, "ridge", source, fewer), "differ in names"),
        (lambda: run_transfer(settings, "nope", source, source), "'nope' is not known"),
        (lambda: run_transfer(settings, "cluster", source, source), "choose another family"),
        (
            lambda: run_transfer(settings_of(train_sessions=50), "ridge", source, source),
            "too few for one fold",
        ),
    ):
        with pytest.raises((ConfigError, DataError), match=words) as caught:
            action()
        assert caught.value.cure


def test_a_family_split_by_target_runs_too(source):
    small = settings_of(horizons=("15m", "60m"))
    families = small.families.model_copy(update={"gbdt_trees": 3, "gbdt_min_rows": 100})
    small = small.model_copy(update={"families": families})
    lines = []
    found = run_transfer(small, "gbdt", at_interval(source, "15m"), source, tell=lines.append)
    assert found.features == tuple(name for name in FEATURES if not name.endswith("_5m"))
    assert found.folds
    assert lines[-1].startswith("fold 3/3 from ")


def test_horizons_without_whole_bars_are_refused(source):
    with pytest.raises(ConfigError, match="5m"):
        run_transfer(settings_of(), "ridge", at_interval(source, "15m"), source)


def test_session_means_are_those_of_a_loop(settings, source):
    side = plan_sides(settings, "ridge", source, source)[0][0]
    assert isinstance(side, Side)
    rng = np.random.default_rng(0)
    values = rng.normal(size=source.n_bars)
    values[rng.random(len(values)) < 0.3] = np.nan
    values[side.session == 2] = np.nan
    expected = [
        np.nanmean(values[side.session == k]) if k != 2 else np.nan for k in range(len(side.ends))
    ]
    np.testing.assert_allclose(session_means(side, values), expected, atol=1e-13)


def test_the_table_holds_everything(result):
    table = result.table()
    assert list(table["horizon"]) == ["5m", "30m"]
    assert set(table["verdict"]) <= {TRANSFERS, FAILS, NOTHING, UNSURE}
    np.testing.assert_array_equal(table["ic_train"], [row.train.ic for row in result.horizons])
    assert len(transfers.VERDICTS) == 3
