"""Tools about settings, runs and bundles. All of them read only."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from dpa.config import Settings
from dpa.errors import UserError
from dpa.mcp.answers import Answer, page
from dpa.mcp.roots import Roots, runs_within, within
from dpa.run_commands import HORIZONS, best_forecast, best_row, differences, ranked, read_rows
from dpa.runs import RunDirectory

MEASURED = ("trial_id", "status", "net_sharpe", "net_sharpe_se", "dsr", "annual_return",
            "max_drawdown", "turnover")  # fmt: skip
Table = Literal["trials", "baselines", "ic"]


class ResearchTools:
    """Settings, runs, bundles.

    Parameters
    ----------
    roots : Roots
    settings : Settings
        Those in force where the server was started.
    """

    def __init__(self, roots: Roots, settings: Settings) -> None:
        self._roots, self._settings = roots, settings

    def settings_show(self, section: str | None = None) -> Answer:
        """The settings in force (file, environment, defaults), all or one section.

        Units are in the schema: see settings_schema. Secrets are left out.
        """
        tree = self._settings.model_dump(mode="json")
        return tree if section is None else {section: tree[_section(section)]}

    def settings_schema(self, section: str | None = None) -> Answer:
        """Meaning, unit, type, bounds and default of every setting, as JSON schema.

        Without a section the names of the sections; with one, its fields.
        """
        models: dict[str, Any] = {
            name: info.annotation for name, info in Settings.model_fields.items()
        }
        if section is None:
            about = {name: str(model.__doc__).splitlines()[0] for name, model in models.items()}
            return {"sections": about}
        model: type[BaseModel] = models[_section(section)]
        return model.model_json_schema()

    def runs_list(self, storage: str | None = None, offset: int = 0, limit: int = 20) -> Answer:
        """Research runs, newest first: id, kind, status, when they began (UTC), trials, data.

        Times are ISO 8601, UTC.
        """
        runs = runs_within(self._roots.storage(storage))
        found = page(runs[::-1], offset, limit)
        found["rows"] = [_line(run) for run in found["rows"]]
        return found

    def run_show(self, run: str, storage: str | None = None) -> Answer:
        """One run: settings, axes, data, folds, status, and its best result.

        `run` is an id, the beginning of one, or "latest". Sharpe ratios are annual; the IC is a
        rank correlation; times are ISO 8601, UTC; lengths of windows are bars.
        """
        found = self._roots.run(run, self._roots.storage(storage))
        manifest = found.read_manifest()
        content = manifest.model_dump(mode="json")
        content["data"]["names"] = _few(content["data"]["names"])
        content["folds"] = _few(content["folds"])
        best = best_forecast(found) if manifest.kind == HORIZONS else best_row(found)
        return {**content, "status": found.status(), "best": None if best is None else dict(best)}

    def run_results(
        self,
        run: str,
        table: Table = "trials",
        storage: str | None = None,
        offset: int = 0,
        limit: int = 20,
        all_columns: bool = False,
    ) -> Answer:
        """Results of a run, best first: a row a trial, a baseline, or a family and horizon.

        Of a grid: tables "trials" and "baselines"; net_sharpe, dsr and annual_return are
        out-of-sample, annual, after costs; returns, drawdown and turnover are fractions of NAV
        (turnover a bar). Of predictors: table "ic"; ic is the rank correlation of forecast and
        outcome, t its t statistic.
        """
        found = self._roots.run(run, self._roots.storage(storage))
        if table == "ic":
            rows: list[Any] = read_rows(within(found.tables / "ic.csv", found.path))
        else:
            path = found.results_csv if table == "trials" else found.baselines_csv
            rows = list(ranked(read_rows(within(path, found.path))))
            if not all_columns:
                rows = [{name: row.get(name) for name in MEASURED} for row in rows]
        return page(rows, offset, limit)

    def runs_compare(self, runs: list[str], storage: str | None = None) -> Answer:
        """Two or more runs side by side: best results, and the settings in which they differ.

        Units as in run_results.
        """
        if not 2 <= len(runs) <= 10:
            raise UserError(f"{len(runs)} runs", "give two to ten")
        root = self._roots.storage(storage)
        found = [self._roots.run(reference, root) for reference in runs]
        kinds = {run.read_manifest().kind for run in found}
        if len(kinds) > 1:
            raise UserError("runs of a grid and of predictors", "compare runs of one kind")
        differing = [
            {"name": name, **dict(zip((run.path.name for run in found), texts, strict=True))}
            for name, *texts in differences(found)
        ]
        return {"runs": [_line(run) for run in found], "differences": differing}

    def bundles_list(self, storage: str | None = None, offset: int = 0, limit: int = 20) -> Answer:
        """Bundles of predictors, newest first; which one is promoted.

        Times are ISO 8601, UTC.
        """
        root = self._roots.storage(storage)
        promoted = str((_read(root / "promoted-bundle.json") or {}).get("fingerprint", ""))
        rows = []
        for run in runs_within(root)[::-1]:
            found = _read(run.bundle / "manifest.json")
            if found is not None and run.bundle.resolve().is_relative_to(root):
                names = ("fingerprint", "created_at", "horizons", "interval", "trained_until")
                about = {name: found.get(name) for name in names}
                families = sorted(found.get("families", {}))
                about |= {"families": families, "promoted": found.get("fingerprint") == promoted}
                rows.append({"run": run.path.name, **about})
        return page(rows, offset, limit)

    def bundle_show(self, bundle: str = "promoted", storage: str | None = None) -> Answer:
        """The manifest of a bundle: features, families, horizons, training dates, measures.

        `bundle` is the id of its run, or "promoted". Measures are out-of-fold rank ICs by family
        and horizon; horizons are session time; times are ISO 8601, UTC.
        """
        root = self._roots.storage(storage)
        if bundle == "promoted":
            pointer = _read(root / "promoted-bundle.json")
            if pointer is None:
                raise UserError("no bundle is promoted in this storage", "see bundles_list")
            folder = within(root / str(pointer["bundle"]), root)
        else:
            folder = within(self._roots.run(bundle, root).bundle, root)
        content = _read(folder / "manifest.json")
        if content is None:
            raise UserError(f"{bundle}: has no bundle", "see bundles_list")
        content.pop("settings", None)
        content["files"] = f"{len(content.get('files', {}))} files"
        content["names"] = _few(content.get("names", []))
        return content


def _section(name: str) -> str:
    if name not in Settings.model_fields:
        known = ", ".join(Settings.model_fields)
        raise UserError(f"section {name[:80]!r}: there is none", f"give one of {known}")
    return name


def _line(run: RunDirectory) -> Answer:
    manifest = run.read_manifest()
    best = best_forecast(run) if manifest.kind == HORIZONS else best_row(run)
    names = ("family", "horizon", "ic", "t") if manifest.kind == HORIZONS else MEASURED
    return {
        "run": run.path.name,
        "kind": manifest.kind,
        "status": run.status(),
        "created_at": manifest.created_at.isoformat(),
        "trials": manifest.n_trials,
        "data": manifest.data.source,
        "best": None if best is None else {name: best.get(name) for name in names},
    }


def _few(values: list[Any], most: int = 20) -> list[Any]:
    left = len(values) - most
    return values if left <= 0 else [*values[:most], f"... {left} more"]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content if isinstance(content, dict) else None
