"""The report of predictors says what the tables say, whatever is missing, and needs only itself."""

import dataclasses
import json
import math
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dpa.errors import RunError
from dpa.research.horizon_report import verdict, write_horizon_report
from dpa.research.horizon_report.pictures import (
    MOST_FEATURES,
    decay,
    family_colours,
    ic_dots,
    importance,
    reliability,
    stacker_weights,
    training_curves,
)
from dpa.research.horizon_report.results import (
    TABLES,
    chance_of_luck,
    expected_largest_t,
    rarely_largest_t,
    read_horizon_run,
)
from dpa.research.horizon_report.words import caveats, listed, sentence, standing
from tests.horizon_runs import FAMILIES, HORIZONS, write_horizon_run
from tests.html_page import Page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
PICTURES = {
    "ic", "decay", "months", "reliability", "correlations", "importance", "curves-gbdt",
    "curves-encoder", "stacker",
}  # fmt: skip


def pictures_of(html):
    """Each picture of a page, as plotly gets it."""
    found = {}
    for part in html.split('<script type="application/json" data-for="picture-')[1:]:
        key, _, rest = part.partition('">')
        found[key] = json.loads(rest.partition("</script>")[0])
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with skill at short horizons; only to be read."""
    return write_horizon_run(tmp_path_factory.mktemp("runs"), skill=0.03)


@pytest.fixture(scope="module")
def html(run):
    return write_horizon_report(run.path).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture
def judged(tmp_path):
    """The verdict of a fabricated run, as one text."""

    def words(**options):
        return str(verdict(read_horizon_run(write_horizon_run(tmp_path, **options).path)))

    return words


def test_the_page_refers_to_nothing_outside_itself(page, html):
    assert set(page.addresses) == {"data:,"}  # the icon: none
    assert "@import" not in html[: html.index("</style>")]
    assert "url(" not in html[: html.index("</style>")]
    assert 1e6 < len(html) < 12e6


def test_every_section_is_there(page, html):
    assert set(pictures_of(html)) == PICTURES
    assert set(page.tables) == {
        "horizons", "ic", "pairs", "barriers", "checks", "fit_totals", "fits", "folds", "identity",
    }  # fmt: skip
    for title in (
        "Horizon by horizon", "Rank IC by family and horizon", "Rank-IC decay", "Rank IC by month",
        "Barrier heads", "Correlation between families", "Feature importance",
        "Training curves: gbdt", "Training curves: encoder", "Weights of the stacker",
        "Leakage checks", "Fits", "Caveats", "Folds", "What this run is",
    ):  # fmt: skip
        assert f"<h2>{title}</h2>" in html
    assert "Not in this report" not in page.text


def test_no_picture_is_empty(html):
    for key, figure in pictures_of(html).items():
        assert figure["data"], key
        assert figure["layout"]["height"] > 150


def test_coefficients_are_those_of_the_csv(page, run):
    rows = pd.read_csv(run.tables / "ic.csv")
    head, *lines = page.tables["ic"]
    shown = {
        (line[0], horizon): cell
        for line in lines
        for horizon, cell in zip(head[1:], line[1:], strict=True)
    }
    assert shown == {(r.family, r.horizon): f"{r.ic:.4f} ± {r.se:.4f}" for r in rows.itertuples()}


def test_pairs_are_those_of_the_csv_largest_t_first(page, run):
    rows = pd.read_csv(run.tables / "ic.csv")
    rows = rows.reindex(rows["t"].abs().sort_values(ascending=False).index)
    head, *lines = page.tables["pairs"]
    assert [line[head.index("t")] for line in lines] == [f"{t:.1f}" for t in rows["t"]]
    assert [line[:2] for line in lines] == rows[["family", "horizon"]].to_numpy().tolist()
    assert {line[head.index("names a bar")] for line in lines} == {"98.2"}
    day = next(line for line in lines if line[1] == "1d")
    assert day[head.index("bars")] == "4,680"
    assert day[head.index("labels apart")] == "60"  # 4680 bars of 5 minutes, 78 a session


@pytest.mark.parametrize(
    ("table", "title", "column", "form"),
    [
        ("barriers", "Brier", "brier", "{:.4f}"),
        ("barriers", "skill", "skill", "{:.2%}"),
        ("barriers", "base rate", "base_rate", "{:.1%}"),
        ("barriers", "rows", "n", "{:,.0f}"),
        ("fits", "seconds", "seconds", "{:.1f}"),
        ("fits", "peak MiB", "peak_mib", "{:,.0f}"),
        ("fits", "tested", "n_test", "{:,.0f}"),
        ("checks", "found", "words", "{}"),
    ],
)
def test_tables_hold_the_numbers_of_the_csv(page, run, table, title, column, form):
    rows = pd.read_csv(run.tables / f"{table}.csv")
    head, *lines = page.tables[table]
    place = head.index(title)
    assert [line[place] for line in lines] == [form.format(value) for value in rows[column]]


def test_fits_add_up(page, run):
    rows = pd.read_csv(run.tables / "fits.csv")
    head, *lines = page.tables["fit_totals"]
    assert [line[0] for line in lines] == [*FAMILIES, "all"]
    assert lines[-1][head.index("seconds")] == f"{rows['seconds'].sum():.1f}"
    assert lines[-1][head.index("fits")] == "40"
    assert lines[2][head.index("fits")] == "28"


def test_pictures_show_the_numbers_of_the_csv(html, run):
    drawn = pictures_of(html)
    table = pd.read_csv(run.tables / "ic.csv")
    dots = {trace["name"]: trace for trace in drawn["ic"]["data"]}
    for family, part in table.groupby("family"):
        np.testing.assert_allclose(numbers(dots[family]["y"]), part["ic"])
        np.testing.assert_allclose(numbers(dots[family]["error_y"]["array"]), 2 * part["se"])
    assert dots["stacked"]["marker"]["symbol"] == "diamond"


def numbers(values):
    """A list of numbers, as text or as the base64 that plotly writes for long ones."""
    if isinstance(values, dict):
        import base64

        shape = [int(n) for n in str(values.get("shape", "-1")).split(",")]
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).reshape(shape)
    return np.array(values, dtype=float)


def test_a_cell_of_the_decay_is_its_row(run):
    table = pd.read_csv(run.tables / "decay.csv")
    figure = decay(table, (*FAMILIES, "stacked"))
    assert len(figure.data) == 5
    for family, panel in zip((*FAMILIES, "stacked"), figure.data, strict=True):
        for row in table[table["family"] == family].itertuples():
            down, across = HORIZONS.index(row.horizon), HORIZONS.index(row.outcome)
            assert panel.z[down][across] == row.ic
            assert panel.customdata[down][across] == row.se


def test_months_without_an_error_are_still_drawn(html, run):
    rows = pd.read_csv(run.tables / "months.csv")
    assert rows["se"].isna().any()
    panel = pictures_of(html)["months"]["data"][0]
    assert panel["x"] == sorted(rows["month"].unique())
    assert np.isfinite(numbers(panel["z"])).all()


def test_reliability_has_a_diagonal_and_the_intervals_of_the_csv(run):
    table = pd.read_csv(run.tables / "reliability.csv")
    figure = reliability(table, family_colours(FAMILIES))
    diagonals = [t for t in figure.data if t.name == "as often as forecast"]
    assert len(diagonals) == 2
    for line in diagonals:
        assert list(line.x) == list(line.y)
    peak = table[(table["family"] == "calibrated") & (table["barrier"] == "peak")]
    [drawn] = [t for t in figure.data if t.name == "calibrated" and t.xaxis == "x"]
    np.testing.assert_allclose(drawn.y + drawn.error_y.array, peak["high"])
    np.testing.assert_allclose(drawn.y - drawn.error_y.arrayminus, peak["low"])


def test_the_largest_importances_are_drawn(run):
    table = pd.read_csv(run.tables / "importance.csv")
    figure = importance(table, FAMILIES, family_colours(FAMILIES))
    for family, bars in zip(FAMILIES, figure.data, strict=True):
        mine = table[table["family"] == family].sort_values("importance", ascending=False)
        assert list(bars.y) == list(mine["feature"].head(MOST_FEATURES))
        assert list(bars.x) == list(mine["importance"].head(MOST_FEATURES))
    nothing = table.assign(importance=0.0)
    assert importance(nothing, FAMILIES, family_colours(FAMILIES)) is None


def test_a_panel_of_curves_for_each_head_and_a_line_for_each_fold(run):
    table = pd.read_csv(run.tables / "curves.csv", dtype={"fold": str})
    figure = training_curves(table, "encoder")
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["all heads, weighted", *HORIZONS]
    assert len(figure.data) == 7 * 2 * 4  # heads, training and validation, 3 folds and the final
    assert sum(bool(trace.showlegend) for trace in figure.data) == 2
    curve = table[
        (table["family"] == "encoder") & (table["fold"] == "001")
        & (table["curve"] == "validation loss, 5m")
    ]  # fmt: skip
    assert any(np.array_equal(trace.y, curve["value"]) for trace in figure.data)


def test_a_weight_of_the_stacker_is_in_its_cell_and_zero_is_blank(run):
    table = pd.read_csv(run.tables / "stacker.csv")
    figure = stacker_weights(table, FAMILIES)
    for row in table.itertuples():
        panel = figure.data[FAMILIES.index(row.family)]
        down, across = HORIZONS.index(row.target), HORIZONS.index(row.horizon)
        assert panel.z[down][across] == row.weight
        assert panel.text[down][across] == (f"{row.weight:.3f}" if row.weight > 0 else "")


def test_checks_carry_a_tick_or_a_cross(page, tmp_path):
    assert [line[0] for line in page.tables["checks"][1:]] == ["✓ passed", "✓ passed"]
    failed = write_horizon_run(tmp_path, horizons=("5m", "1d"), failed_check=True)
    shown = Page(write_horizon_report(failed.path).read_text(encoding="utf-8"))
    assert [line[0] for line in shown.tables["checks"][1:]] == ["✓ passed", "✗ failed"]
    assert "Not to be believed: leakage checks failed (labels over night)." in shown.text


def test_the_verdict_of_noise_is_no_evidence(judged):
    words = judged(skill=0.0)
    assert words.startswith("No evidence at any horizon:")
    assert "30 pairs of family and horizon were looked at" in words
    assert "about 2.3 by luck alone, and above 3.1 once in twenty" in words


def test_the_verdict_of_skill_names_the_horizons(page, run):
    found = read_horizon_run(run.path)
    assert verdict(found).answer == ("Evidence at 5m, 10m, 15m and 30m; no evidence at 60m and 1d.")
    assert verdict(found).answer in page.text
    rows = [line[:2] for line in page.tables["horizons"][1:]]
    assert rows == [
        *([horizon, "evidence"] for horizon in HORIZONS[:4]),
        ["60m", "no evidence"],
        ["1d", "no evidence"],
    ]


def test_the_verdict_of_an_invented_market_says_so(judged):
    words = judged(skill=0.3, source="planted")
    assert words.startswith("On an invented market: evidence at every horizon.")
    assert "says nothing of any real market" in words


def test_nothing_found_on_an_invented_market_is_said_as_plainly(judged):
    assert judged(source="planted").startswith("On an invented market: no evidence at any horizon")


def test_a_placebo_must_find_nothing(judged):
    assert judged(placebo=True).startswith("Placebo passed: no evidence")


@pytest.mark.parametrize("skill", [0.03, -0.03])
def test_a_placebo_that_finds_something_is_a_leak(judged, skill):
    words = judged(placebo=True, skill=skill)
    assert words.startswith("Leak:")
    assert "at 5m, 10m, 15m" in words


def test_forecasts_the_wrong_way_round_are_no_evidence(judged):
    words = judged(skill=-0.03)
    assert words.startswith("No evidence at any horizon")
    assert "and 60m some rank them the wrong way round" in words


def test_evidence_of_a_family_is_not_that_of_the_stacker(tmp_path):
    run = write_horizon_run(tmp_path)
    rows = pd.read_csv(run.tables / "ic.csv")
    chosen = (rows["family"] == "ridge") & (rows["horizon"] == "10m")
    rows.loc[chosen, ["ic", "se", "t"]] = [0.02, 0.003, 0.02 / 0.003]
    rows.to_csv(run.tables / "ic.csv", index=False)
    found = read_horizon_run(run.path)
    assert standing(found, "10m") == "evidence, not from the stacker"
    assert "best single family ridge 0.0200 ± 0.0030 (t 6.7)" in sentence(found, "10m")
    assert verdict(found).answer.startswith(
        "Evidence at 10m, but from single families, not from the stacker; no evidence at 5m, 15m"
    )
    chosen = (rows["family"] == "stacked") & (rows["horizon"] == "5m")
    rows.loc[chosen, ["ic", "se", "t"]] = [0.02, 0.002, 10.0]
    rows.to_csv(run.tables / "ic.csv", index=False)
    assert verdict(read_horizon_run(run.path)).answer.startswith(
        "Evidence at 5m; at 10m from single families only; no evidence at 15m"
    )


def test_forecasts_that_were_silent_are_named(run, tmp_path):
    assert "Silent" not in " ".join(caveats(read_horizon_run(run.path)))
    silent = write_horizon_run(tmp_path)
    rows = pd.read_csv(silent.tables / "ic.csv")
    rows.loc[(rows["family"] == "gbdt") & (rows["horizon"] == "10m"), "n_bars"] = 3000
    rows.to_csv(silent.tables / "ic.csv", index=False)
    assert "gbdt at 10m (3,000 of 4,680)" in " ".join(caveats(read_horizon_run(silent.path)))


def test_a_horizon_without_errors_is_not_judged(tmp_path):
    run = write_horizon_run(tmp_path, skill=0.03, horizons=("5m", "1d"))
    rows = pd.read_csv(run.tables / "ic.csv")
    rows.loc[rows["horizon"] == "1d", ["se", "t"]] = math.nan
    rows.to_csv(run.tables / "ic.csv", index=False)
    found = read_horizon_run(run.path)
    assert verdict(found).answer == "Evidence at 5m; too few bars to tell at 1d."
    assert "5 pairs of family" in verdict(found).reason
    rows["t"] = math.nan
    rows.to_csv(run.tables / "ic.csv", index=False)
    assert verdict(read_horizon_run(run.path)).answer.startswith("No verdict: there is no error")


def test_few_labels_are_mentioned(run):
    found = read_horizon_run(run.path)
    assert "only about 60 labels that do not overlap" in sentence(found, "1d")
    assert "only about" not in sentence(found, "60m")


@pytest.mark.parametrize("n", [1, 5, 30, 200])
def test_the_expected_largest_t_is_that_of_simulated_luck(n):
    draws = np.abs(np.random.default_rng(n).normal(size=(40_000, n))).max(axis=1)
    assert expected_largest_t(n) == pytest.approx(draws.mean(), abs=4 * draws.std() / 200)
    assert np.mean(draws > rarely_largest_t(n)) == pytest.approx(0.05, abs=0.005)


def test_the_expected_size_of_one_normal():
    assert expected_largest_t(1) == pytest.approx(math.sqrt(2 / math.pi))
    assert rarely_largest_t(1) == pytest.approx(1.959964, abs=1e-6)
    assert math.isnan(expected_largest_t(0))
    assert math.isnan(rarely_largest_t(0))


def test_the_chance_of_luck_counts_every_look():
    single = 2 * stats.t.sf(3.0, 20)
    assert chance_of_luck(3.0, 1, 20) == pytest.approx(single)
    assert chance_of_luck(-3.0, 30, 20) == pytest.approx(1 - (1 - single) ** 30)
    assert chance_of_luck(0.0, 30, 20) == 1.0
    assert chance_of_luck(60.0, 30, 1e6) < 1e-12
    assert math.isnan(chance_of_luck(math.nan, 30, 20))


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_missing_table_is_said_and_breaks_nothing(tmp_path, name):
    run = write_horizon_run(tmp_path, horizons=("5m", "1d"), absent=(name,))
    shown = Page(write_horizon_report(run.path).read_text(encoding="utf-8"))
    assert [line[0] for line in shown.tables["missing"]] == [f"{name}.csv"]
    if name == "checks":
        assert "There are no leakage checks to vouch for it." in shown.text
    if name == "ic":
        assert "No verdict: there is no table of information coefficients" in shown.text


def test_an_empty_table_counts_as_missing(tmp_path):
    run = write_horizon_run(tmp_path, horizons=("5m", "1d"))
    path = run.tables / "curves.csv"
    pd.read_csv(path).iloc[:0].to_csv(path, index=False)
    shown = Page(write_horizon_report(run.path).read_text(encoding="utf-8"))
    assert [line[0] for line in shown.tables["missing"]] == ["curves.csv"]


def test_a_run_that_has_not_begun_has_a_report(tmp_path):
    run = write_horizon_run(tmp_path, begun=False, status="interrupted")
    shown = Page(write_horizon_report(run.path).read_text(encoding="utf-8"))
    assert "(0 of 40 fits done)" in shown.text
    assert "interrupted" in shown.text
    assert len(shown.tables["missing"]) == len(TABLES)


@pytest.mark.parametrize("content", ["family,horizon\na,5m\n", "family,horizon,ic\n\x00\xff", ""])
def test_a_damaged_table_is_one_error_with_its_cure(tmp_path, content):
    run = write_horizon_run(tmp_path)
    (run.tables / "ic.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(RunError, match=r"ic\.csv: cannot be read"):
        write_horizon_report(run.path)


def test_a_run_of_the_grid_is_refused(full_run):
    with pytest.raises(RunError, match="is no run of predictors"):
        read_horizon_run(full_run.path)


def test_names_cannot_break_the_page(tmp_path):
    run = write_horizon_run(tmp_path, source="<b>bars</b>.parquet", horizons=("5m", "1d"))
    for name in ("ic", "importance", "fits", "curves", "reliability"):
        path = run.tables / f"{name}.csv"
        text = path.read_text().replace("gbdt", "</script><i>mine</i>")
        path.write_text(text.replace("return_5m", "<u>&return"))
    html = write_horizon_report(run.path).read_text(encoding="utf-8")
    shown = Page(html)
    for raw in ("<i>mine", "<b>bars", "<u>&return"):
        outside = "".join(part.partition("</script>")[2] for part in html.split("<script")[1:])
        assert raw not in outside
    assert any("</script><i>mine</i>" in line for line in shown.tables["fits"])
    assert shown.text.count("<b>bars</b>.parquet") >= 2
    drawn = pictures_of(html)
    assert any(trace["name"] == "</script><i>mine</i>" for trace in drawn["ic"]["data"])


def test_a_family_may_be_called_na(tmp_path):
    run = write_horizon_run(tmp_path)
    path = run.tables / "ic.csv"
    path.write_text(path.read_text().replace("ridge", "NA"))
    assert "NA" in read_horizon_run(run.path).families


def test_the_colours_of_families_differ_and_stay():
    colours = family_colours((*FAMILIES, "stacked"))
    assert len({colours[name] for name in (*FAMILIES, "stacked")}) == 5
    assert colours == family_colours(FAMILIES)


def test_dots_of_one_family_without_an_error(run):
    found = read_horizon_run(run.path)
    pair = dataclasses.replace(found.pairs[0], se=math.nan, t=math.nan)
    figure = ic_dots([pair], family_colours(FAMILIES))
    assert list(figure.data[0].error_y.array) == [0.0]
    assert ic_dots([dataclasses.replace(pair, ic=math.nan)], {}) is None


def test_caveats_are_those_of_the_run(run, tmp_path):
    words = " ".join(caveats(read_horizon_run(run.path)))
    for subject in (
        "Overlapping labels", "Many looks", "Survivorship bias", "Membership", "No costs",
        "between 2024-09-10 and 2024-12-02", "execution_lag 1",
    ):  # fmt: skip
        assert subject in words
    planted = write_horizon_run(tmp_path, source="planted")
    assert caveats(read_horizon_run(planted.path))[0].startswith("Invented market")


@pytest.mark.parametrize(
    ("words", "text"), [((), ""), (("a",), "a"), (("a", "b"), "a and b"), ("abc", "a, b and c")]
)
def test_lists_read_as_sentences_do(words, text):
    assert listed(words) == text


def test_features_and_settings_are_named(page):
    rows = {line[0]: line[1] for line in page.tables["identity"]}
    assert rows["features"].startswith("25: return_5m, return_30m")
    assert "horizons 5m/10m/15m/30m/60m/1d" in rows["horizons"]
    assert "gbdt_trees 100" in rows["families"]
    assert "stack_decay exponential" in rows["stacking"]
    assert rows["data fingerprint"] == "cd" * 32
    assert rows["bundle"] == "none yet"


def test_every_picture_draws_offline_in_a_browser(run, html, tmp_path):
    if BROWSER is None:
        pytest.skip("no chromium to open the report with")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000",
        "--enable-logging=stderr", "--dump-dom", run.report.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
    assert done.stdout.count('class="plot js-plotly-plot"') == len(PICTURES)
    assert "ERR_" not in done.stderr
