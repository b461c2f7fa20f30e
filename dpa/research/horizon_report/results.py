"""What a run of predictors left on disk, and how much of its evidence luck alone would give."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import integrate, stats

from dpa.errors import DpaError, RunError
from dpa.market.interval_specs import IntervalSpec, get_interval_spec, parse_horizon
from dpa.runs import Manifest, RunDirectory
from dpa.validation.information import overlap_lags

STACKER = "stacked"
PLANTED = "planted"
DOUBT = 0.05  # least chance of luck that is still called luck
TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # texts, numbers
    "ic": (("family", "horizon"), ("ic", "se", "t", "n_bars", "mean_names")),
    "decay": (("family", "horizon", "outcome"), ("ic", "se", "t", "n_bars")),
    "months": (("family", "horizon", "month"), ("ic", "se", "t", "n_bars", "n_effective")),
    "correlations": (("horizon", "family", "other"), ("correlation", "n_bars")),
    "barriers": (("family", "barrier"), ("brier", "skill", "base_rate", "n")),
    "reliability": (("family", "barrier"), ("forecast", "frequency", "count", "low", "high")),
    "importance": (("family", "feature"), ("importance",)),
    "curves": (("family", "target", "fold", "curve"), ("step", "value")),
    "stacker": (("target", "horizon", "family"), ("weight",)),
    "fits": (
        ("fold", "family", "target"),
        ("seconds", "cpu_seconds", "peak_mib", "n_fit", "n_validation", "n_test"),
    ),
    "checks": (("check", "passed", "words"), ()),
}


@dataclass(frozen=True)
class Pair:
    """One family at one horizon.

    Parameters
    ----------
    family, horizon : str
    ic, se, t : float
        Mean information coefficient out of sample, its standard error, their ratio; NaN where
        there is none.
    n_bars : float
        Bars tested.
    labels : float
        Label lengths that those bars cover: about how many independent outcomes there were.
    luck : float
        Chance that the largest \\|t\\| of as many independent pairs without skill is at least this
        one; NaN where there is no t.
    """

    family: str
    horizon: str
    ic: float
    se: float
    t: float
    n_bars: float
    labels: float
    luck: float

    @property
    def is_evidence(self) -> bool:
        """Whether it ranks better than luck explains."""
        return self.ic > 0 and self.luck < DOUBT

    @property
    def is_backward(self) -> bool:
        """Whether it ranks the wrong way round, more so than luck explains."""
        return self.ic < 0 and self.luck < DOUBT


@dataclass(frozen=True, eq=False)
class HorizonResults:
    """Everything known about a run of predictors.

    Parameters
    ----------
    path : Path
    manifest : Manifest
    status : str
        "running", "interrupted" or "complete".
    done : int
        Fits that are finished.
    tables : mapping of str to DataFrame
        By the names of :data:`TABLES`; those that are missing or empty are left out.
    pairs : tuple of Pair
        Every family at every horizon.
    """

    path: Path
    manifest: Manifest
    status: str
    done: int
    tables: Mapping[str, pd.DataFrame]
    pairs: tuple[Pair, ...]

    @property
    def judged(self) -> tuple[Pair, ...]:
        """Pairs with a t."""
        return tuple(pair for pair in self.pairs if math.isfinite(pair.t))

    @property
    def largest(self) -> Pair | None:
        """The pair with the largest \\|t\\|."""
        return max(self.judged, key=lambda pair: abs(pair.t), default=None)

    @property
    def horizons(self) -> tuple[str, ...]:
        """Labels of the horizons judged, in increasing length."""
        return tuple(dict.fromkeys(pair.horizon for pair in self.pairs))

    @property
    def families(self) -> tuple[str, ...]:
        """Families that any table names, the stacker last."""
        named = [
            name
            for table in self.tables.values()
            if "family" in table
            for name in table["family"].unique()
        ]
        found = dict.fromkeys(named)
        ordered = [name for name in found if name != STACKER]
        return (*ordered, *([STACKER] if STACKER in found else []))

    @property
    def failed_checks(self) -> tuple[str, ...]:
        """Leakage checks that did not pass."""
        checks = self.tables.get("checks")
        if checks is None:
            return ()
        return tuple(checks.loc[~passed(checks), "check"])

    def pair(self, family: str, horizon: str) -> Pair | None:
        """The pair of that family and horizon."""
        for pair in self.pairs:
            if (pair.family, pair.horizon) == (family, horizon):
                return pair
        return None

    def best_single(self, horizon: str) -> Pair | None:
        """The family, the stacker aside, with the largest t at a horizon."""
        found = [p for p in self.judged if p.horizon == horizon and p.family != STACKER]
        return max(found, key=lambda pair: pair.t, default=None)


def passed(checks: pd.DataFrame) -> "pd.Series[bool]":
    """Which checks passed; whatever is not said to be true did not."""
    return checks["passed"].astype(str).str.strip().str.lower().isin(("true", "1"))


def expected_largest_t(n_pairs: int) -> float:
    """Expected largest \\|t\\| of independent standard normals; NaN for none.

    ``E max|z| = integral over x > 0 of 1 - (2 Phi(x) - 1)^n``
    """
    if n_pairs < 1:
        return math.nan
    value, _ = integrate.quad(lambda x: 1.0 - math.erf(x / math.sqrt(2)) ** n_pairs, 0, 40)
    return float(value)


def rarely_largest_t(n_pairs: int, chance: float = DOUBT) -> float:
    """What the largest \\|t\\| of independent standard normals exceeds with that chance."""
    if n_pairs < 1:
        return math.nan
    return float(stats.norm.ppf((1.0 + (1.0 - chance) ** (1.0 / n_pairs)) / 2.0))


def chance_of_luck(t: float, n_pairs: int, degrees: float) -> float:
    """Chance that the largest of `n_pairs` independent Student's \\|t\\| is at least ``|t|``.

    Šidák (1967).

    Parameters
    ----------
    t : float
    n_pairs : int
        Pairs looked at.
    degrees : float
        Degrees of freedom of the standard error.
    """
    if not (math.isfinite(t) and degrees > 0):
        return math.nan
    single = 2.0 * float(stats.t.sf(abs(t), degrees))
    return float(-np.expm1(n_pairs * np.log1p(-min(single, 1.0)))) if single < 1.0 else 1.0


def read_horizon_run(run_dir: str | Path) -> HorizonResults:
    """Read the directory of a run of predictors, whatever its state.

    Raises
    ------
    RunError
        When the manifest or a table cannot be read, or the run is of another kind.
    """
    run = RunDirectory(Path(run_dir))
    manifest = run.read_manifest()
    if manifest.kind != "horizons":
        raise RunError(f"{run.path.name}: is no run of predictors", "see 'dpa runs list'")
    tables = {name: read_table(run.tables, name) for name in TABLES}
    known = {name: table for name, table in tables.items() if len(table)}
    pairs = _pairs(known, manifest)
    return HorizonResults(run.path, manifest, run.status(), run.fits_done(), known, pairs)


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """A table of a run, its texts as str and the rest as float; no rows where there is no file.

    Raises
    ------
    RunError
        When the file is damaged or lacks a column.
    """
    texts, numbers = TABLES[name]
    path = folder / f"{name}.csv"
    try:
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(texts, str) | dict.fromkeys(numbers, float),
            keep_default_na=False,  # a family may be called NA
            na_values={column: ["", "nan", "NaN"] for column in numbers},
        )
        return table[[*texts, *numbers]]
    except FileNotFoundError:
        return pd.DataFrame(columns=[*texts, *numbers])
    except (OSError, ValueError, KeyError) as e:
        raise RunError(
            f"{path}: cannot be read ({e})", "resume the run, which writes it again"
        ) from e


def _pairs(tables: Mapping[str, pd.DataFrame], manifest: Manifest) -> tuple[Pair, ...]:
    if "ic" not in tables:
        return ()
    rows = tables["ic"]
    looked_at = int(rows["t"].notna().sum())
    spec = get_interval_spec(manifest.data.interval, None, calendar=manifest.data.calendar)
    lag = manifest.settings.walk_forward.execution_lag
    found = []
    for row in rows.to_dict("records"):
        bars = _label_bars(row["horizon"], spec, lag)
        n_bars = row["n_bars"]
        known = bars > 0 and n_bars > 0
        degrees = 1.5 * n_bars / overlap_lags(bars, int(n_bars)) if known else math.nan
        found.append(
            Pair(
                row["family"],
                row["horizon"],
                row["ic"],
                row["se"],
                row["t"],
                n_bars,
                n_bars / bars if known else math.nan,
                chance_of_luck(row["t"], looked_at, degrees),
            )
        )
    return tuple(found)


def _label_bars(horizon: str, spec: IntervalSpec, lag: int) -> int:
    """Bars from a decision to the end of its label; 0 for a label that is no horizon."""
    try:
        return lag - 1 + parse_horizon(horizon, spec).bars
    except DpaError:
        return 0
