"""Blocks on disk: whole, in any order, one and the same as a single pass; labels apart."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from dpa.config import load_settings
from dpa.errors import RunError
from dpa.horizons.dataset import (
    BlockSpan,
    Dataset,
    join_rows,
    make_block,
    plan_blocks,
    session_of,
    usable_rows,
    write_block,
)
from dpa.horizons.recipe import Recipe, make_recipe
from dpa.horizons.types import Rows
from dpa.market.panel import Panel
from dpa.validation.truncation import CHANGES, changed_future
from tests.horizons.irregular import irregular_panel

FEATURES = (
    "return_scaled_5m",
    "residual_market_30m",
    "return_rank_30m",
    "vwap_distance_session",
    "overnight_gap",
    "session_left",
)
ARRAYS = ("features", "targets", "barriers", "sigma", "usable")


def recipe_of(panel: Panel, **horizons: object) -> Recipe:
    tree = {
        "horizons": {
            "horizons": ("5m", "30m", "1d"),
            "feature_list": FEATURES,
            "sigma_minutes": 390,
            **horizons,
        },
        "walk_forward": {"execution_lag": 2},
    }
    settings = load_settings(None, tree, {})
    return make_recipe(settings, panel.names, "5m", "XNYS", tuple(panel.extras()), None)


@pytest.fixture(scope="module")
def panel() -> Panel:
    """Nine sessions, the half day and the weekend after it among them."""
    whole = irregular_panel()
    return whole.window(18 * 78, whole.n_bars)


@pytest.fixture(scope="module")
def recipe(panel) -> Recipe:
    return recipe_of(panel)


@pytest.fixture(scope="module")
def session(panel):
    return session_of(panel.times, "5m", "XNYS")


@pytest.fixture(scope="module")
def single(panel, recipe):
    return make_block(panel, recipe, BlockSpan(0, panel.n_bars))


def on_disk(folder, panel, recipe, spans):
    folder.mkdir(exist_ok=True)
    for span in spans[::-1]:  # in whatever order
        write_block(folder, make_block(panel, recipe, span), span)
    return Dataset.finish(folder, spans)


@pytest.fixture(scope="module")
def dataset(panel, recipe, session, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    return on_disk(folder, panel, recipe, plan_blocks(session, 2))


# -- blocks


@pytest.mark.parametrize("per_block", [1, 2, 4, 100])
def test_every_bar_is_in_one_block_and_sessions_are_whole(per_block, session):
    spans = plan_blocks(session, per_block)
    assert [spans[0].start, spans[-1].stop] == [0, len(session)]
    assert all(a.stop == b.start for a, b in itertools.pairwise(spans))
    for span in spans:
        inside = session[span.start : span.stop]
        assert len(np.unique(inside)) <= per_block
        assert span.start == 0 or session[span.start - 1] != inside[0]
    assert all(len(np.unique(session[s.start : s.stop])) == per_block for s in spans[:-1])


@pytest.mark.parametrize("per_block", [1, 2, 5])
def test_blocks_made_apart_are_a_single_pass(per_block, panel, recipe, session, single):
    for span in plan_blocks(session, per_block):
        block = make_block(panel, recipe, span)
        for name in ARRAYS:
            wanted = getattr(single, name)[span.start : span.stop]
            np.testing.assert_array_equal(getattr(block, name), wanted, err_msg=name)


def test_what_is_read_is_what_was_made(dataset, single, panel):
    assert dataset.n_bars == panel.n_bars
    for name in ARRAYS:
        found = dataset.dense(name, 150, 400)
        np.testing.assert_array_equal(found, getattr(single, name)[150:400], err_msg=name)
    rows, wanted = dataset.rows(150, 401), single.rows(150, 401)
    for field in ("features", "targets", "barriers", "bar", "asset"):
        np.testing.assert_array_equal(getattr(rows, field), getattr(wanted, field))


def test_rows_are_the_usable_ones_in_time_order(dataset, single):
    rows = dataset.rows(150, 401)
    wanted = [(t, i) for t in range(150, 401) for i in np.flatnonzero(single.usable[t])]
    assert list(zip(rows.bar.tolist(), rows.asset.tolist(), strict=True)) == wanted
    for k in (0, 77, len(rows) - 1):
        found = rows.features[k]
        np.testing.assert_array_equal(found, single.features[rows.bar[k], rows.asset[k]])
        np.testing.assert_array_equal(rows.targets[k], single.targets[rows.bar[k], rows.asset[k]])
    assert len(dataset.rows(0, 50)) == 0


def test_usable_by_a_loop(single, panel, recipe):
    reach = recipe.feature_set().reach
    for bar in (reach - 1, reach, 200, 300, 555):
        for asset in range(panel.n_assets):
            known = np.isfinite(single.features[bar, asset]).mean()
            wanted = (
                panel.mask[bar, asset]
                and np.isfinite(single.sigma[bar, asset])
                and known >= recipe.settings.horizons.min_features
                and bar >= reach
            )
            assert single.usable[bar, asset] == wanted
    assert 0.3 < single.usable.mean() < 0.95


def test_usable_needs_each_of_the_three():
    features = np.ones((1, 4, 10), np.float32)
    features[0, 1, :4] = np.nan
    sigma = np.array([[1.0, 1.0, np.nan, 1.0]])
    member = np.array([[True, True, True, False]])
    found = usable_rows(features, sigma, member, 0.7)
    np.testing.assert_array_equal(found, [[True, False, False, False]])
    assert usable_rows(features, sigma, member, 0.6)[0, 1]


# -- labels


@pytest.mark.parametrize("change", CHANGES)
def test_features_never_see_what_labels_look_at(change, panel, recipe, single):
    cut = 400
    other = changed_future(panel, cut, change, np.random.default_rng(0))
    block = make_block(other, recipe, BlockSpan(200, cut))
    for name in ("features", "sigma", "usable"):
        np.testing.assert_array_equal(getattr(block, name), getattr(single, name)[200:cut])
    differs = ~np.isclose(block.targets, single.targets[200:cut], equal_nan=True)
    last = np.flatnonzero(differs.any(axis=(1, 2)))[0]
    assert last + 200 >= cut - recipe.purge.label_bars  # and no label reaches further


@pytest.mark.parametrize("target", ["return", "excess"])
def test_targets_by_hand(target, panel):
    recipe = recipe_of(panel, target=target)
    block = make_block(panel, recipe, BlockSpan(0, panel.n_bars))
    p, lag, seen = panel.prices, 2, 0
    for bar in range(100, panel.n_bars, 23):
        for place, horizon in enumerate(recipe.horizons):
            end = bar + lag - 1 + horizon.bars
            if end >= panel.n_bars:
                assert np.isnan(block.targets[bar, :, place]).all()
                continue
            moved = (p[end] / p[bar + lag - 1] - 1) * 1e4
            if target == "excess":
                moved = moved - np.nanmean(moved[panel.mask[bar]])
            wanted = moved / (block.sigma[bar] * np.sqrt(horizon.minutes))
            np.testing.assert_allclose(block.targets[bar, :, place], wanted, rtol=1e-4, atol=1e-5)
            seen += np.isfinite(wanted).sum()
    assert seen > 100


def test_barriers_by_a_loop(panel, recipe, single):
    """The first of +-k sigma sqrt(30) touched in the six closes after the entry."""
    log = np.log(panel.prices)
    checked = 0
    for bar in range(120, panel.n_bars - 10, 11):
        for asset in range(panel.n_assets):
            path = log[bar + 2 : bar + 8, asset] - log[bar + 1, asset]
            width = 0.75 * single.sigma[bar, asset] * np.sqrt(30) / 1e4
            if not np.isfinite([*path, width]).all():
                continue
            touched = [np.sign(x) for x in path if abs(x) >= width]
            first = touched[0] if touched else 0
            np.testing.assert_array_equal(single.barriers[bar, asset], [first < 0, first > 0])
            checked += 1
    assert checked > 100


# -- the folder


def test_an_unfinished_folder_is_no_data_set(tmp_path):
    with pytest.raises(RunError, match="is no data set"):
        Dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(RunError, match="is no data set") as caught:
        Dataset(tmp_path)
    assert caught.value.cure


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_damaged_block_is_named(damage, tmp_path, panel, recipe, session):
    dataset = on_disk(tmp_path / "d", panel, recipe, plan_blocks(session, 3))
    path = dataset.folder / dataset.spans[1].file
    if damage == "gone":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"no tensors")
    dataset.rows(0, dataset.spans[0].stop)
    with pytest.raises(RunError, match=path.name) as caught:
        dataset.rows(0, dataset.n_bars)
    assert "\n" not in str(caught.value)


def test_the_manifest_names_the_blocks_and_is_opened_anywhere(dataset):
    content = json.loads((dataset.folder / "dataset.json").read_text())
    assert [BlockSpan(*b) for b in content["blocks"]] == list(dataset.spans)
    assert Dataset(dataset.folder).spans == dataset.spans
    assert not [p for p in dataset.folder.iterdir() if p.name.startswith(".block")]


def test_rows_are_joined_in_order(single):
    parts = [single.rows(150, 200), single.rows(200, 300)]
    joined, wanted = join_rows(parts), single.rows(150, 300)
    for field in dataclasses.fields(Rows):
        np.testing.assert_array_equal(getattr(joined, field.name), getattr(wanted, field.name))
