"""Tables of the report of a run of predictors: formatted from the rows of the CSV files."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from dpa.errors import RunError
from dpa.horizons.bundle import MANIFEST, read_bundle_manifest
from dpa.research.horizon_report.results import (
    STACKER,
    HorizonResults,
    Pair,
    passed,
)
from dpa.research.horizon_report.words import sentence, standing
from dpa.research.report.style import day, moment, number, percent, shown, whole
from dpa.research.report.tables import Table
from dpa.runs import RunDirectory

Column = tuple[str, str, Callable[[Any], str]]  # title, column, format
MANY = 12  # rows shown before the rest is folded away
SECTIONS = {  # table to what is missing without it
    "ic": "information coefficients, and with them the verdict",
    "decay": "rank-IC decay",
    "months": "information coefficients by month",
    "barriers": "Brier scores of the barrier heads",
    "reliability": "reliability curves of the barrier heads",
    "correlations": "correlation between families",
    "importance": "feature importance",
    "curves": "training curves",
    "stacker": "weights of the stacker",
    "checks": "leakage checks: nothing shows that there is no leak",
    "fits": "time and memory of the fits",
}


def four(value: float) -> str:
    """Four decimals, enough for an information coefficient."""
    return number(float(value), 4)


def one(value: float) -> str:
    """One decimal."""
    return number(float(value), 1)


def luck(value: float) -> str:
    """A chance of luck, without false precision at its ends."""
    if not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else number(value, 3)


def horizon_table(run: HorizonResults) -> Table:
    """Whether there is evidence, horizon by horizon."""
    rows = tuple((h, standing(run, h), sentence(run, h)) for h in run.horizons)
    columns = (("horizon", False), ("verdict", False), ("rank IC ± one standard error", False))
    return Table("horizons", columns, rows, len(rows))


def ic_matrix(run: HorizonResults) -> Table:
    """Information coefficient and error, a row a family, a column a horizon; the stacker marked."""
    families = list(dict.fromkeys(pair.family for pair in run.pairs))
    rows = tuple(
        (family, *(_cell(run.pair(family, horizon)) for horizon in run.horizons))
        for family in families
    )
    columns = (("family", False), *((horizon, True) for horizon in run.horizons))
    marked = families.index(STACKER) if STACKER in families else -1
    return Table("ic", columns, rows, len(rows), marked)


def _cell(pair: Pair | None) -> str:
    return "–" if pair is None else f"{four(pair.ic)} ± {four(pair.se)}"


def pair_table(run: HorizonResults) -> Table:
    """Every pair of family and horizon, the largest \\|t\\| first."""
    names = {(row["family"], row["horizon"]): row["mean_names"]
             for row in run.tables["ic"].to_dict("records")}  # fmt: skip
    order = sorted(run.pairs, key=lambda p: -abs(p.t) if math.isfinite(p.t) else math.inf)
    rows = tuple(
        (
            pair.family,
            pair.horizon,
            four(pair.ic),
            four(pair.se),
            one(pair.t),
            luck(pair.luck),
            whole(pair.n_bars),
            whole(pair.labels),
            one(names[pair.family, pair.horizon]),
        )
        for pair in order
    )
    titles = ("IC", "± s.e.", "t", "chance of luck", "bars", "labels apart", "names a bar")
    columns = (("family", False), ("horizon", False), *((title, True) for title in titles))
    return Table("pairs", columns, rows, 6)


def plain_table(
    name: str, rows: pd.DataFrame, texts: Sequence[str], columns: Sequence[Column], open_rows: int
) -> Table:
    """Rows of a CSV file as they are, formatted."""
    cells = tuple(
        (*(row[text] for text in texts), *(form(row[column]) for _, column, form in columns))
        for row in rows.to_dict("records")
    )
    titles = [(text, False) for text in texts] + [(title, True) for title, _, _ in columns]
    return Table(name, tuple(titles), cells, open_rows)


def barrier_table(rows: pd.DataFrame) -> Table:
    """Scores of the barrier heads."""
    columns: list[Column] = [
        ("Brier", "brier", four),
        ("skill", "skill", lambda value: percent(value, 2)),
        ("base rate", "base_rate", percent),
        ("rows", "n", whole),
    ]
    return plain_table("barriers", rows, ("family", "barrier"), columns, len(rows))


def check_table(rows: pd.DataFrame) -> Table:
    """Leakage checks: a tick or a cross, what was checked, what was found."""
    marks = ["✓ passed" if good else "✗ failed" for good in passed(rows)]
    cells = tuple(zip(marks, rows["check"], rows["words"], strict=True))
    return Table("checks", (("", False), ("check", False), ("found", False)), cells, len(cells))


def fit_totals(rows: pd.DataFrame) -> Table:
    """Time and memory of each family's fits together, and of all."""
    parts = [(name, part) for name, part in rows.groupby("family", sort=False)]
    cells = tuple(
        (
            str(name),
            whole(len(part)),
            one(part["seconds"].sum()),
            one(part["cpu_seconds"].sum()),
            one(part["seconds"].max()),
            whole(part["peak_mib"].max()),
            whole(part["n_fit"].max()),
        )
        for name, part in (*parts, ("all", rows))
    )
    titles = ("fits", "seconds", "CPU seconds", "longest", "peak MiB", "most rows")
    columns = (("family", False), *((title, True) for title in titles))
    return Table("fit_totals", columns, cells, len(cells), len(cells) - 1)


def fit_table(rows: pd.DataFrame) -> Table:
    """Every fit."""
    columns: list[Column] = [
        ("seconds", "seconds", one),
        ("CPU seconds", "cpu_seconds", one),
        ("peak MiB", "peak_mib", whole),
        ("rows fitted", "n_fit", whole),
        ("held out", "n_validation", whole),
        ("tested", "n_test", whole),
    ]
    return plain_table("fits", rows, ("fold", "family", "target"), columns, MANY)


def fold_table(run: HorizonResults) -> Table:
    """When each fold was tested; an asterisk marks a window that the history cut short."""
    rows = tuple(
        (
            f"{fold.index}{'*' if fold.partial else ''}",
            whole(fold.train_stop - fold.train_start),
            whole(fold.test_start - fold.train_stop),
            whole(fold.test_stop - fold.test_start),
            moment(fold.first_test),
            moment(fold.last_test),
        )
        for fold in run.manifest.folds
    )
    titles = ("fold", "bars trained", "bars purged", "bars tested")
    columns = (*((title, True) for title in titles), ("test from, UTC", False), ("to", False))
    return Table("folds", columns, rows, MANY)


def missing_table(run: HorizonResults) -> Table:
    """Tables that are not there, and what the report lacks for it."""
    rows = tuple((f"{name}.csv", SECTIONS[name]) for name in SECTIONS if name not in run.tables)
    return Table("missing", (("", False), ("", False)), rows, len(rows))


def features(run: HorizonResults) -> list[str]:
    """Features that any family was given, in the order of the table of importance."""
    table = run.tables.get("importance")
    return [] if table is None else list(dict.fromkeys(table["feature"]))


def identity_table(run: HorizonResults) -> Table:
    """What names the run."""
    manifest, data, settings = run.manifest, run.manifest.data, run.manifest.settings
    used = features(run)
    rows = (
        ("run", manifest.run_id),
        ("created", f"{manifest.created_at:%Y-%m-%d %H:%M} UTC"),
        ("status", f"{run.status}, {run.done} of {manifest.n_trials} fits done"),
        ("data", f"{data.source}: {len(data.names)} names, {data.n_bars:,} bars of "
                 f"{data.interval} ({data.calendar}), {moment(data.first_bar)} to "
                 f"{moment(data.last_bar)} UTC"),
        ("data fingerprint", data.fingerprint),
        ("horizons", _settings(settings.horizons)),
        ("families", _settings(settings.families)),
        ("stacking", _settings(settings.stacking)),
        ("execution lag", f"{settings.walk_forward.execution_lag} bar(s)"),
        ("features", f"{len(used)}: {', '.join(used)}" if used else "not known"),
        ("bundle", _bundle(RunDirectory(run.path))),
        ("code", f"dpa {manifest.code_version}, sources {manifest.code_hash[:16]}"),
        ("libraries", ", ".join(f"{k} {v}" for k, v in manifest.libraries.items())),
    )  # fmt: skip
    return Table("identity", (("", False), ("", False)), rows, len(rows))


def _settings(section: Any) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in section)


def _value(value: Any) -> str:
    return "/".join(map(str, value)) or "none" if isinstance(value, tuple) else shown(value)


def _bundle(run: RunDirectory) -> str:
    if not (run.bundle / MANIFEST).is_file():
        return "none yet"
    try:
        manifest = read_bundle_manifest(run.bundle)
    except RunError as e:
        return str(e)
    return f"{manifest.short}, trained on bars until {day(manifest.trained_until)}"
