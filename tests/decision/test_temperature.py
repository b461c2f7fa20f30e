import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dpa.config import BlendConfig
from dpa.decision.temperature import compress, temperature_of
from dpa.errors import ConfigError
from dpa.market.interval_specs import Horizon
from tests.decision.conftest import HORIZONS

ALL = tuple(HORIZONS.values())


def entropy(weights: np.ndarray) -> float:
    positive = weights[weights > 0]
    return float(-(positive * np.log(positive)).sum())


def test_flattens_where_the_plan_sharpened() -> None:
    """[.5, .3, .2] at T = 0.75; w^(1/T) would give [.555, .281, .164] (PITFALLS M1)."""
    weights = np.array([[0.5, 0.3, 0.2]])
    flatter = compress(weights, np.array([0.75]))
    raised = np.array([0.5**0.75, 0.3**0.75, 0.2**0.75])
    np.testing.assert_allclose(flatter[0], raised / raised.sum(), rtol=1e-15)
    np.testing.assert_allclose(flatter[0], [0.4577, 0.3120, 0.2302], atol=5e-5)
    assert entropy(flatter[0]) > entropy(weights[0])


@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6).filter(lambda w: sum(w) > 1e-6),
    st.floats(0.01, 1.0),
)
@hypothesis_settings(max_examples=200, deadline=None)
def test_entropy_never_falls(raw: list[float], temperature: float) -> None:
    weights = np.array([raw]) / sum(raw)
    flatter = compress(weights, np.array([temperature]))
    assert entropy(flatter[0]) >= entropy(weights[0]) - 1e-12
    assert flatter.sum() == pytest.approx(1.0)
    assert (flatter >= 0).all()
    assert (flatter[weights == 0] == 0).all()


def test_rows_of_zero_stay_zero() -> None:
    np.testing.assert_array_equal(compress(np.zeros((2, 3)), np.array([0.5, 1.0])), 0.0)


def test_temperature_one_changes_no_bit() -> None:
    weights = np.array([[0.1, 0.2, 0.7]])
    np.testing.assert_array_equal(compress(weights, np.array([1.0])), weights)


def test_default_table() -> None:
    found = temperature_of(ALL, BlendConfig().temperatures)
    np.testing.assert_allclose(found, [0.75, 0.85, 0.90, 1.0, 1.0, 1.0])


def test_linear_in_log_minutes_between_and_constant_outside() -> None:
    horizons = (Horizon(1, 1, "1m"), Horizon(10, 10, "10m"), Horizon(40, 40, "40m"))
    found = temperature_of(horizons, ("20m=0.9", "5m=0.5"))
    np.testing.assert_allclose(found, [0.5, 0.7, 0.9])


def test_days_are_as_long_as_the_venue_has_them() -> None:
    horizons = (Horizon(300, 1, "1d"), Horizon(600, 2, "2d"))
    np.testing.assert_allclose(temperature_of(horizons, ("1d=0.5", "2d=0.8")), [0.5, 0.8])


@pytest.mark.parametrize(
    "table",
    [
        ("5m=0",),
        ("5m=1.1",),
        ("5m=nan",),
        ("5m=-1",),
        ("5m",),
        ("x=0.5",),
        ("5m=half",),
        ("5m=0.5", "5m=0.6"),
        ("60m=0.5", "1h=0.6"),
        (),
    ],
)
def test_bad_tables_are_refused(table: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"blend\.temperatures"):
        temperature_of(ALL, table)
