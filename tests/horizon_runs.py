"""Runs of predictors made of random numbers, with every table that a real run leaves on disk."""

import itertools
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from dpa.clock import FixedClock
from dpa.config import Settings
from dpa.runs import DataDescription, FoldRecord, RunDirectory, new_manifest

HORIZONS = ("5m", "10m", "15m", "30m", "60m", "1d")
LABEL_BARS = dict(zip(HORIZONS, (1, 2, 3, 6, 12, 78), strict=True))
FAMILIES = ("cluster", "ridge", "gbdt", "encoder")
STRENGTH = {"cluster": 0.2, "ridge": 0.9, "gbdt": 1.0, "encoder": 0.8, "stacked": 1.1}
MONTHS = ("2024-09", "2024-10", "2024-11", "2024-12")
TESTED = 4680  # bars of all test windows, 60 sessions of 5 minutes
FEATURES = tuple(
    f"{kind}_{minutes}m"
    for kind, minutes in itertools.product(
        ("return", "momentum", "reversal", "volatility", "volume_surprise"), (5, 30, 60, 390, 1950)
    )
)


def _errors(bars: int, n_bars: int = TESTED) -> float:
    return 0.15 / math.sqrt(n_bars / bars)


def _estimate(rng: Any, true: float, bars: int, n_bars: int = TESTED) -> dict[str, float]:
    se = _errors(bars, n_bars)
    ic = true + se * rng.normal()
    return {"ic": ic, "se": se, "t": ic / se, "n_bars": n_bars}


def _judged(rng: Any, skill: float, horizons: Any) -> dict[str, pd.DataFrame]:
    """IC, decay and months; the truth falls with the horizon's logarithm."""
    true = {h: skill * (1 - 0.1 * math.log2(LABEL_BARS[h])) for h in horizons}
    ic, decay, months = [], [], []
    for family, h in itertools.product((*FAMILIES, "stacked"), horizons):
        strength = STRENGTH[family]
        names = {"family": family, "horizon": h}
        found = _estimate(rng, strength * true[h], LABEL_BARS[h])
        ic.append(names | found | {"mean_names": 98.25})
        for outcome in horizons:
            far = abs(math.log2(LABEL_BARS[outcome] / LABEL_BARS[h]))
            other = _estimate(rng, strength * true[outcome] * 0.9**far, LABEL_BARS[outcome])
            decay.append(names | {"outcome": outcome} | (found if outcome == h else other))
        for month in MONTHS:
            part = _estimate(rng, strength * true[h], LABEL_BARS[h], TESTED // len(MONTHS))
            part["n_effective"] = part["n_bars"] / LABEL_BARS[h]
            if part["n_effective"] < 20:
                part |= {"se": math.nan, "t": math.nan, "n_effective": math.nan}
            months.append(names | {"month": month} | part)
    return {"ic": pd.DataFrame(ic), "decay": pd.DataFrame(decay), "months": pd.DataFrame(months)}


def _wilson(frequency: Any, count: Any) -> tuple[Any, Any]:
    z = stats.norm.ppf(0.975)
    middle = (frequency + z**2 / (2 * count)) / (1 + z**2 / count)
    half = (
        z
        / (1 + z**2 / count)
        * np.sqrt(frequency * (1 - frequency) / count + z**2 / (4 * count**2))
    )
    return middle - half, middle + half


def _barriers(rng: Any) -> dict[str, pd.DataFrame]:
    scores, curves = [], []
    for family, barrier in itertools.product(("gbdt", "encoder", "calibrated"), ("peak", "valley")):
        base = 0.34 if barrier == "peak" else 0.31
        skill = 0.012 if family == "calibrated" else -0.004
        brier = base * (1 - base) * (1 - skill)
        names = {"family": family, "barrier": barrier}
        scores.append(names | {"brier": brier, "skill": skill, "base_rate": base, "n": 459_000})
        slope = 1.0 if family == "calibrated" else 0.6
        for forecast in np.linspace(base - 0.08, base + 0.08, 10):
            frequency = base + slope * (forecast - base) + 0.004 * rng.normal()
            low, high = _wilson(frequency, 45_900)
            curves.append(
                names
                | {"forecast": forecast, "frequency": frequency, "count": 45_900}
                | {"low": low, "high": high}
            )
    return {"barriers": pd.DataFrame(scores), "reliability": pd.DataFrame(curves)}


def _learning(rng: Any, n_folds: int, horizons: Any) -> dict[str, pd.DataFrame]:
    curves, fits, importance = [], [], []
    folds = [*(f"{fold:03d}" for fold in range(n_folds)), "final"]
    for fold, family in itertools.product(folds, FAMILIES):
        targets = (*horizons, "barriers") if family == "gbdt" else ("all",)
        for target in targets:
            seconds = rng.uniform(0.5, 9)
            fits.append(
                {"fold": fold, "family": family, "target": target, "seconds": seconds,
                 "cpu_seconds": 0.9 * seconds, "peak_mib": rng.uniform(600, 1000),
                 "n_fit": 143_000, "n_validation": 36_520,
                 "n_test": 0 if fold == "final" else 62_400}
            )  # fmt: skip
            heads = {"gbdt": (target,), "encoder": ("", *horizons)}.get(family, ())
            for head, (kind, rate) in itertools.product(
                heads, (("training", 0.03), ("validation", 0.01))
            ):
                name = f"{kind} loss, {head}" if head else f"{kind} loss"
                level = 0.55 + 0.01 * rng.normal()
                for step in range(20 if family == "encoder" else 60):
                    value = level - rate * (1 - math.exp(-step / 10)) + 0.0005 * rng.normal()
                    curves.append((family, target, fold, name, step, value))
    for family in FAMILIES:
        shares = rng.dirichlet(np.full(len(FEATURES), 0.5))
        importance += [
            {"family": family, "feature": feature, "importance": share}
            for feature, share in zip(FEATURES, shares, strict=True)
        ]
    columns = ["family", "target", "fold", "curve", "step", "value"]
    return {
        "curves": pd.DataFrame(curves, columns=columns),
        "fits": pd.DataFrame(fits),
        "importance": pd.DataFrame(importance),
    }


def _combined(rng: Any, horizons: Any) -> dict[str, pd.DataFrame]:
    weights = [
        {"target": target, "horizon": h, "family": family,
         "weight": max(0.0, rng.normal(0.05, 0.05) - 0.02 * abs(i - j))}
        for (i, target), (j, h), family in itertools.product(
            enumerate(horizons), enumerate(horizons), FAMILIES
        )
    ]  # fmt: skip
    pairs = itertools.combinations((*FAMILIES, "stacked"), 2)
    alike = [
        {"horizon": h, "family": family, "other": other,
         "correlation": rng.uniform(0.1, 0.9), "n_bars": TESTED}
        for h, (family, other) in itertools.product(horizons, list(pairs))
    ]  # fmt: skip
    return {"stacker": pd.DataFrame(weights), "correlations": pd.DataFrame(alike)}


def _checks(failed: bool) -> dict[str, pd.DataFrame]:
    rows = [
        ("labels end before the test", True, "3 folds: the last label ends 1 bar before the test"),
        ("labels over night", not failed, "of 13,770 labels that span a night, 0 meet a test"),
    ]
    return {"checks": pd.DataFrame(rows, columns=["check", "passed", "words"])}


def _folds(times: pd.DatetimeIndex, n_folds: int) -> tuple[FoldRecord, ...]:
    length = TESTED // n_folds
    return tuple(
        FoldRecord(
            index=fold, train_start=fold * length, train_stop=4602 + fold * length,
            test_start=4680 + fold * length, test_stop=4680 + (fold + 1) * length,
            partial=fold == n_folds - 1, first_test=times[fold * 20],
            last_test=times[fold * 20 + 19] + pd.Timedelta("6h25min"),
        )
        for fold in range(n_folds)
    )  # fmt: skip


def write_horizon_run(
    storage: Path,
    *,
    skill: float = 0.0,
    source: str = "us_5min_bars.parquet",
    horizons: tuple[str, ...] = HORIZONS,
    absent: tuple[str, ...] = (),
    failed_check: bool = False,
    placebo: bool = False,
    status: str = "complete",
    begun: bool = True,
    created: datetime = datetime(2026, 1, 5, 12, tzinfo=UTC),
    seed: int = 0,
) -> RunDirectory:
    """A run of four families on three folds.

    `skill` is the true IC of the best family at one bar; tables in `absent` are left out; a run
    that has not `begun` is its manifest alone.
    """
    rng = np.random.default_rng(seed)
    n_folds = 3
    times = pd.bdate_range("2024-09-10", periods=20 * n_folds, tz="UTC") + pd.Timedelta("13h35min")
    data = DataDescription(
        source=source, fingerprint="cd" * 32, shards="shards", n_bars=9360,
        names=tuple(f"NAME{i:03d}" for i in range(101)), interval="5m", calendar="XNYS",
        first_bar=datetime(2024, 6, 17, 13, 35, tzinfo=UTC), last_bar=times[-1],
    )  # fmt: skip
    settings = Settings.model_validate({"horizons": {"placebo": placebo, "horizons": horizons}})
    fits = (n_folds + 1) * (3 + len(horizons) + 1)
    run = RunDirectory.create(
        storage,
        new_manifest(
            settings, {}, data, _folds(times, n_folds), fits, (), FixedClock(created), "horizons"
        ),
    )
    if begun:
        tables = _judged(rng, skill, horizons) | _barriers(rng) | _combined(rng, horizons)
        tables |= _learning(rng, n_folds, horizons) | _checks(failed_check)
        run.tables.mkdir()
        for name, table in tables.items():
            if name not in absent:
                table.to_csv(run.tables / f"{name}.csv", index=False)
        for row in tables["fits"].itertuples():
            folder = run.tasks / row.fold / row.family / row.target
            folder.mkdir(parents=True)
            (folder / "summary.json").write_text("{}")
    run.set_status(status)
    return run
