"""What the figures mean, in sentences: whether there is evidence, then what to be careful about."""

from collections.abc import Sequence

from dpa.research.horizon_report.results import (
    DOUBT,
    PLANTED,
    STACKER,
    HorizonResults,
    Pair,
    expected_largest_t,
    rarely_largest_t,
)
from dpa.research.report.style import number
from dpa.research.report.words import Verdict

EVIDENCE, FAMILY_ONLY, NONE = "evidence", "evidence, not from the stacker", "no evidence"
BACKWARD, UNKNOWN = "no evidence; the wrong way round", "too few bars to tell"
FULL = 0.98  # of the bars of a horizon, below which a pair is said to have been silent
FEW_LABELS = 80  # below it errors are known to be too small, see dpa.validation.information


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them: ``5m, 10m and 1d``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def standing(run: HorizonResults, horizon: str) -> str:
    """Whether there is evidence at a horizon, in a few words."""
    judged = [pair for pair in run.judged if pair.horizon == horizon]
    if not judged:
        return UNKNOWN
    good = [pair for pair in judged if pair.is_evidence]
    if good:
        stacked = run.pair(STACKER, horizon)
        missed = stacked is not None and not stacked.is_evidence
        return FAMILY_ONLY if missed else EVIDENCE
    return BACKWARD if any(pair.is_backward for pair in judged) else NONE


def verdict(run: HorizonResults) -> Verdict:
    """Whether the forecasts rank returns better than luck, in plain words.

    Every family, the stacker included, at every horizon counts as one look; a chance of luck
    below 5 % over all of them is called evidence.
    """
    if run.failed_checks:
        failed = listed(run.failed_checks)
        return Verdict(f"Not to be believed: leakage checks failed ({failed}).", _reason(run))
    if not run.judged:
        why = "no error of any IC" if run.pairs else "no table of information coefficients"
        fits = f"{run.done} of {run.manifest.n_trials} fits done"
        return Verdict(f"No verdict: there is {why} ({fits}).", "")
    found = [h for h in run.horizons if standing(run, h) in (EVIDENCE, FAMILY_ONLY)]
    if run.manifest.settings.horizons.placebo:
        strange = [h for h in run.horizons if standing(run, h) not in (NONE, UNKNOWN)]
        return Verdict(_placebo(strange), _reason(run))
    words = _answer(run, found)
    if run.manifest.data.source == PLANTED:
        words = f"On an invented market: {words[0].lower()}{words[1:]}"
    return Verdict(words, _reason(run))


def _placebo(found: Sequence[str]) -> str:
    if found:
        return (
            "Leak: each name held the labels of another, and yet forecasts rank returns, "
            f"one way or the other, at {listed(found)}."
        )
    return "Placebo passed: no evidence, as it must be where each name holds the labels of another."


def _answer(run: HorizonResults, found: Sequence[str]) -> str:
    if not found:
        words = "No evidence at any horizon: nothing here ranks returns better than luck would"
        backward = [h for h in run.horizons if standing(run, h) == BACKWARD]
        if backward:
            words += f", and at {listed(backward)} some rank them the wrong way round"
        return words + "."
    rest = [h for h in run.horizons if h not in found]
    unknown = [h for h in rest if standing(run, h) == UNKNOWN]
    none = [h for h in rest if h not in unknown]
    words = _where(run, found)
    words += f"; no evidence at {listed(none)}" if none else ""
    words += f"; too few bars to tell at {listed(unknown)}" if unknown else ""
    return words + "."


def _where(run: HorizonResults, found: Sequence[str]) -> str:
    """At which horizons there is evidence, and where it is not the stacker's."""
    alone = [h for h in found if standing(run, h) == FAMILY_ONLY]
    stacked = [h for h in found if h not in alone]
    if not stacked:
        return f"Evidence at {listed(alone)}, but from single families, not from the stacker"
    everywhere = len(stacked) == len(run.horizons)
    words = f"Evidence at {'every horizon' if everywhere else listed(stacked)}"
    return words + (f"; at {listed(alone)} from single families only" if alone else "")


def _reason(run: HorizonResults) -> str:
    largest = run.largest
    if largest is None:
        return ""
    n = len(run.judged)
    pairs = f"{n} pairs of family and horizon were looked at" if n > 1 else "One pair was looked at"
    words = (
        f"{pairs}. The largest |t| is {number(abs(largest.t), 1)} ({_named(largest)}, "
        f"IC {_measured(largest)}); "
        + (f"the largest of {n} without any skill" if n > 1 else "one without any skill")
        + f" would be about {number(expected_largest_t(n), 1)} by luck alone, and above "
        f"{number(rarely_largest_t(n), 1)} once in twenty."
    )
    if "checks" not in run.tables:
        words += " There are no leakage checks to vouch for it."
    if run.manifest.data.source == PLANTED:
        words += (
            " The market is invented, with a signal planted at every horizon: this tests whether "
            "the program finds what is there, and says nothing of any real market."
        )
    return words


def _named(pair: Pair) -> str:
    return f"{'the stacker' if pair.family == STACKER else pair.family} at {pair.horizon}"


def _measured(pair: Pair) -> str:
    return f"{number(pair.ic, 4)} ± {number(pair.se, 4)}"


def sentence(run: HorizonResults, horizon: str) -> str:
    """What was found at a horizon: the stacker first, then the best single family."""
    stacked, best = run.pair(STACKER, horizon), run.best_single(horizon)
    parts = []
    if stacked is not None:
        parts.append(f"stacker {_measured(stacked)} (t {number(stacked.t, 1)})")
    if best is not None:
        parts.append(f"best single family {best.family} {_measured(best)} (t {number(best.t, 1)})")
    few = min((p.labels for p in run.judged if p.horizon == horizon), default=FEW_LABELS)
    if few < FEW_LABELS:
        parts.append(f"only about {few:.0f} labels that do not overlap: an error this rough is "
                     "itself uncertain")  # fmt: skip
    return "; ".join(parts) or "no information coefficient has an error"


def caveats(run: HorizonResults) -> list[str]:
    """What no figure in the report can show."""
    settings = run.manifest.settings
    found = [
        "Overlapping labels: neighbouring bars share most of their return, so that many bars are "
        "few independent outcomes. Errors of the ICs allow for it (Newey & West 1987, three label "
        f"lengths); where a test holds fewer than {FEW_LABELS} labels they are still too small. "
        "The intervals of the barrier curves take rows as independent and are too narrow.",
        f"Many looks: evidence means a chance of luck below {DOUBT:.0%} over all pairs of family "
        "and horizon in this report (Šidák 1967), taken as independent, which is the stricter "
        "choice. Earlier runs on the same data were looks too, and are not counted.",
        _survivorship(run),
        "Membership: a name counts where the data say it belongs, which for most files is wherever "
        "it has prices. Nothing says that it could be traded or borrowed then.",
        "No costs: an IC ranks returns before spread, impact and fees. A horizon of minutes can "
        "have a true IC and no profit.",
        _period(run),
    ]
    lag = settings.walk_forward.execution_lag
    if lag == 1:
        found.append(
            "Execution: returns are counted from the close of the bar that forecasts "
            "(execution_lag 1). Nobody fills there for certain, and over a bar or two an IC can be "
            "the bounce between bid and ask, which cannot be earned; repeat with execution_lag 2."
        )
    found += _silent(run)
    if run.manifest.data.source == PLANTED:
        found.insert(
            0,
            "Invented market: prices, volumes and what they foretell were drawn by the program, "
            "and the signals are stronger and simpler than any real ones.",
        )
    return found


def _silent(run: HorizonResults) -> list[str]:
    """Pairs judged on clearly fewer bars than others of their horizon."""
    most = {h: max(p.n_bars for p in run.pairs if p.horizon == h) for h in run.horizons}
    short = [p for p in run.pairs if p.n_bars < FULL * most[p.horizon]]
    if not short:
        return []
    named = listed([f"{_named(p)} ({p.n_bars:,.0f} of {most[p.horizon]:,.0f})" for p in short])
    return [
        "Silent forecasts: a bar at which a forecast is the same for all names, or missing, has no "
        f"rank and is left out. Judged on fewer bars than others: {named}. Their ICs are means "
        "over the bars where they had something to say."
    ]


def _survivorship(run: HorizonResults) -> str:
    if run.manifest.data.source == PLANTED:
        return "Survivorship: nobody chose these names in hindsight; a real list mostly was."
    return (
        "Survivorship bias: a run cannot know how its list of names was chosen. If it holds "
        "companies picked today, failures are missing, and what ranked them last was not tested."
    )


def _period(run: HorizonResults) -> str:
    folds = run.manifest.folds
    if not folds:
        return "One period: nothing was tested yet."
    return (
        f"One period: everything was tested between {folds[0].first_test:%Y-%m-%d} and "
        f"{folds[-1].last_test:%Y-%m-%d}. Errors cover sampling within it, not another regime."
    )
