"""What every family promises: its rows, its horizons, its files, its errors."""

import dataclasses
import json

import numpy as np
import pytest

from dpa.config import FamiliesConfig
from dpa.errors import ConfigError, DataError, RunError
from dpa.horizons.families import family_class, family_names
from dpa.horizons.types import BARRIERS, Rows, RowSchema
from dpa.market.interval_specs import Horizon

WITH_BARRIERS = ("gbdt", "encoder")
pytestmark = pytest.mark.parametrize("name", ["cluster", "ridge", "gbdt", "encoder"])


def everything(forecast):
    """Returns and barriers side by side."""
    parts = [forecast.returns] + ([] if forecast.barriers is None else [forecast.barriers])
    return np.concatenate(parts, axis=1)


def test_found_by_its_name(name):
    family = family_class(name)
    assert name in family_names()
    assert family.name == name
    assert family.splits_by_target == (name == "gbdt")
    assert family.has_barriers == (name in WITH_BARRIERS)


def test_the_planted_signal_is_found(name, fitted, validation, r_squared):
    forecast = fitted(name)[0].predict(validation.features)
    assert forecast.returns.shape == (len(validation), 3)
    assert forecast.returns.dtype == np.float64
    implied = 0.4**2 + 0.3**2 + 0.5**2 / 3
    ceiling = implied / (implied + 1)
    for horizon in range(3):
        found = r_squared(forecast.returns[:, horizon], validation.targets[:, horizon])
        assert (0.15 if name != "cluster" else 0.03) < found < ceiling + 0.05


def test_barriers_are_probabilities_better_than_the_base_rate(name, fitted, validation, r_squared):
    barriers = fitted(name)[0].predict(validation.features).barriers
    if name not in WITH_BARRIERS:
        assert barriers is None
        return
    assert barriers.shape == (len(validation), 2)
    assert barriers.min() >= 0
    assert barriers.max() <= 1
    for head in range(2):
        assert r_squared(barriers[:, head], validation.barriers[:, head]) > 0.02


def test_shuffled_targets_teach_nothing(name, schema, settings, make_rows, r_squared):
    train, held = make_rows(6000, 5, shuffled=True), make_rows(4000, 6, shuffled=True)
    unseen = make_rows(4000, 7, shuffled=True)
    family = family_class(name)(schema, settings)
    family.fit(train, held, 0)
    returns = family.predict(unseen.features).returns
    for horizon in range(3):
        assert abs(r_squared(returns[:, horizon], unseen.targets[:, horizon])) < 0.01


def test_a_row_alone_in_a_batch_and_in_another_order_agree(name, fitted, validation):
    family = fitted(name)[0]
    features = validation.features[:300]
    batch = everything(family.predict(features))
    alone = np.concatenate([everything(family.predict(row[None])) for row in features])
    order = np.random.default_rng(0).permutation(len(features))
    other = everything(family.predict(features[order]))
    tolerance = 1e-12 if name == "encoder" else 0.0
    np.testing.assert_allclose(alone, batch, rtol=0, atol=tolerance)
    np.testing.assert_allclose(other, batch[order], rtol=0, atol=tolerance)


def test_no_rows_no_forecast(name, fitted, empty):
    assert fitted(name)[0].predict(empty.features).returns.shape == (0, 3)


def test_rows_may_be_views(name, fitted, validation):
    family = fitted(name)[0]
    strided = np.asfortranarray(validation.features)[::2]
    np.testing.assert_allclose(
        everything(family.predict(strided)),
        everything(family.predict(np.ascontiguousarray(strided))),
        rtol=0,
        atol=1e-12,
    )


def test_a_feature_counts_only_for_the_horizons_it_serves(name, fitted, validation, schema):
    family = fitted(name)[0]
    changed = validation.features.copy()
    changed[:, schema.features.index("fast")] += 1.0
    before, after = family.predict(validation.features), family.predict(changed)
    same = (before.returns == after.returns) | np.isnan(before.returns)
    if name == "encoder":  # shares every feature, and says so
        assert not same[:, 2].all()
    else:
        assert same[:, 2].all()
    assert same[:, 0].all() == (name == "cluster")


def test_missing_features_are_no_missing_forecast(name, fitted, validation):
    family = fitted(name)[0]
    nothing = np.full_like(validation.features[:5], np.nan)
    forecast = everything(family.predict(nothing))
    assert np.isnan(forecast).all() if name == "cluster" else np.isfinite(forecast).all()
    assert np.isfinite(everything(family.predict(validation.features))).all() == (name != "cluster")


@pytest.mark.parametrize("value", [1e6, -1e6])
def test_an_outlier_is_winsorised(name, fitted, validation, value):
    family = fitted(name)[0]
    wild = validation.features[:20].copy()
    wild[:, 0] = value
    forecast = family.predict(wild).returns
    assert np.nanmax(np.abs(forecast)) < 10


def test_a_feature_that_never_varied_or_was_never_seen_counts_for_nothing(
    name, schema, settings, make_rows
):
    rows = make_rows(1500, 8)
    unseen = rows.features.copy()
    unseen[:, schema.features.index("noise")] = np.nan
    family = family_class(name)(schema, settings)
    family.fit(dataclasses.replace(rows, features=unseen), make_rows(0, 0), 0)
    before = everything(family.predict(rows.features))
    changed = rows.features.copy()
    changed[:, schema.features.index("constant")] = 77.0
    changed[:, schema.features.index("noise")] = -5.0
    np.testing.assert_array_equal(everything(family.predict(changed)), before)
    assert family.importance()["constant"] == family.importance()["noise"] == 0.0


def test_importance_is_a_share_and_finds_the_planted_feature(name, fitted, schema):
    importance = fitted(name)[0].importance()
    assert tuple(importance) == schema.features
    assert sum(importance.values()) == pytest.approx(1)
    assert min(importance.values()) >= 0
    best = max(importance, key=importance.__getitem__)
    assert best == ("cluster_score" if name == "cluster" else "slow")


def test_same_seed_same_fingerprint(name, fitted, schema, settings, train, make_rows):
    family, _ = fitted(name)
    again = family_class(name)(schema, settings)
    again.fit(train, make_rows(1500, 2), 11)
    assert again.fingerprint() == family.fingerprint()
    again.fit(train.take(slice(0, 3000)), make_rows(1500, 2), 11)
    assert again.fingerprint() != family.fingerprint()


def test_the_global_generators_are_left_alone(name, schema, settings, make_rows):
    import torch

    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    family_class(name)(schema, settings).fit(make_rows(400, 0), make_rows(200, 1), 3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_back_from_disk_to_the_bit(name, fitted, schema, tmp_path, validation):
    family = fitted(name)[0]
    family.save(tmp_path / "a")
    loaded = family_class(name).load(tmp_path / "a", schema, FamiliesConfig())
    before, after = (everything(f.predict(validation.features)) for f in (family, loaded))
    np.testing.assert_array_equal(before, after)
    assert loaded.fingerprint() == family.fingerprint()
    assert loaded.importance() == family.importance()
    loaded.save(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()
    assert not [file for file in (tmp_path / "a").iterdir() if file.suffix in (".pkl", ".part")]


def test_every_flipped_truncated_or_missing_file_is_refused(name, fitted, schema, tmp_path):
    fitted(name)[0].save(tmp_path)
    rng = np.random.default_rng(4)
    for file in sorted(tmp_path.iterdir()):
        content = file.read_bytes()
        spots = rng.integers(0, len(content), 12).tolist()
        damaged = [content[:cut] for cut in (0, 1, len(content) // 2, len(content) - 1)]
        damaged += [_flipped(content, spot) for spot in [0, len(content) - 1, *spots]]
        damaged += [content + b"\n"]
        for bad in damaged:
            file.write_bytes(bad)
            with pytest.raises(RunError, match=file.name) as caught:
                family_class(name).load(tmp_path, schema, FamiliesConfig())
            assert caught.value.cure
            assert "\n" not in str(caught.value)
        file.unlink()
        with pytest.raises(RunError, match=file.name):
            family_class(name).load(tmp_path, schema, FamiliesConfig())
        file.write_bytes(content)
    family_class(name).load(tmp_path, schema, FamiliesConfig())


def _flipped(content: bytes, spot: int) -> bytes:
    return content[:spot] + bytes([content[spot] ^ 1]) + content[spot + 1 :]


def test_other_features_or_horizons_are_refused(name, fitted, schema, tmp_path):
    fitted(name)[0].save(tmp_path)
    renamed = ("other", *schema.features[1:])
    swapped = (schema.features[1], schema.features[0], *schema.features[2:])
    served = schema.serves.copy()
    served[3, 0] = False
    horizons = (Horizon(10, 2, "10m"), *schema.horizons[1:])
    others = {
        "features": [
            dataclasses.replace(schema, features=names, serves=schema.serves[: len(names)])
            for names in (renamed, swapped, (*schema.features[:3], *schema.features[4:]))
        ],
        "horizons": [dataclasses.replace(schema, horizons=horizons)],
        "served": [dataclasses.replace(schema, serves=served)],
    }
    for what, schemas in others.items():
        for other in schemas:
            with pytest.raises(RunError, match=what) as caught:
                family_class(name).load(tmp_path, other, FamiliesConfig())
            assert "train it again" in caught.value.cure


def test_another_interval_is_welcome_because_horizons_are_minutes(name, fitted, schema, tmp_path):
    fitted(name)[0].save(tmp_path)
    minutes = tuple(Horizon(h.minutes, h.minutes, h.label) for h in schema.horizons)
    finer = dataclasses.replace(schema, horizons=minutes, interval="1m")
    loaded = family_class(name).load(tmp_path, finer, FamiliesConfig())
    assert loaded.fingerprint() == fitted(name)[0].fingerprint()


def test_another_schema_version_is_refused(name, fitted, schema, tmp_path, monkeypatch):
    monkeypatch.setattr("dpa.horizons.families._storage.SCHEMA_VERSION", 2)
    fitted(name)[0].save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(RunError, match="schema version 2"):
        family_class(name).load(tmp_path, schema, FamiliesConfig())


def test_the_json_names_what_it_vouches_for(name, fitted, tmp_path, schema):
    fitted(name)[0].save(tmp_path)
    for file in tmp_path.glob("*.json"):
        manifest = json.loads(file.read_text(encoding="utf-8"))
        assert manifest["family"] == name
        assert manifest["features"] == list(schema.features)
        assert set(manifest["files"]) <= {path.name for path in tmp_path.iterdir()}


def test_wrong_columns_are_refused(name, fitted, schema, settings, train):
    with pytest.raises(DataError, match="8 columns expected"):
        fitted(name)[0].predict(train.features[:, :5])
    narrow = dataclasses.replace(train, features=train.features[:, :5])
    with pytest.raises(DataError, match="8 columns expected"):
        family_class(name)(schema, settings).fit(narrow, train, 0)
    short = dataclasses.replace(train, targets=train.targets[:, :2])
    with pytest.raises(DataError, match="3 expected"):
        family_class(name)(schema, settings).fit(short, train, 0)


def test_a_horizon_without_targets_is_refused_by_name(name, schema, settings, train, empty):
    targets = train.targets.copy()
    targets[:, 1] = np.nan
    with pytest.raises(DataError, match=r"target for 30m"):
        family_class(name)(schema, settings).fit(
            dataclasses.replace(train, targets=targets), empty, 0
        )
    with pytest.raises(DataError):
        family_class(name)(schema, settings).fit(empty, empty, 0)


def test_nothing_learned_nothing_said(name, schema, settings, train, tmp_path):
    family = family_class(name)(schema, settings)
    for ask in (
        lambda: family.predict(train.features),
        lambda: family.save(tmp_path),
        family.fingerprint,
    ):
        with pytest.raises(RunError, match=f"{name}: has learned nothing"):
            ask()


def test_a_barrier_of_one_class_is_not_forecast(name, schema, settings, make_rows):
    if name not in WITH_BARRIERS:
        pytest.skip("no barrier heads")
    rows = make_rows(600, 9)
    barriers = rows.barriers.copy()
    barriers[:, 0] = 0.0
    barriers[:, 1] = np.nan
    one_class = Rows(rows.features, rows.targets, barriers, rows.bar, rows.asset)
    family = family_class(name)(schema, settings)
    family.fit(one_class, one_class.take(slice(0, 100)), 0)
    forecast = family.predict(rows.features)
    assert np.isnan(forecast.barriers).all()
    assert np.isfinite(forecast.returns).all()
    assert forecast.barriers.shape[1] == len(BARRIERS)


def test_a_horizon_no_feature_serves_is_a_setting_to_mend(name, settings, schema, train, empty):
    if name == "encoder":
        pytest.skip("uses every feature")
    serves = np.ones_like(schema.serves)
    serves[:, 1] = False
    other = RowSchema(schema.features, schema.horizons, serves, "5m")
    family = family_class(name)(other, settings)
    if name == "cluster":
        family.fit(train, empty, 0)
        returns = family.predict(train.features).returns
        assert np.isnan(returns[:, 1]).all()
        assert np.isfinite(returns[:, 0]).any()
        return
    with pytest.raises(ConfigError, match="none serves 30m"):
        family.fit(train, empty, 0)


def test_targets_that_never_vary_are_forecast_as_they_are(name, schema, settings, make_rows):
    rows = make_rows(300, 1)
    flat = dataclasses.replace(rows, targets=np.zeros_like(rows.targets))
    family = family_class(name)(schema, settings)
    family.fit(flat, flat, 0)
    assert np.nanmax(np.abs(family.predict(rows.features).returns)) < 0.02
