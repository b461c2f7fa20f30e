"""What the figures mean, in sentences: the verdict first, then each statistic's caveat."""

import math
from dataclasses import dataclass

from dpa.config import CostConfig, Settings
from dpa.research.report.grid_pictures import rank_persistence
from dpa.research.report.style import number, percent, short
from dpa.research.results import Comparison, RunResults, SearchStatistics, TrialResults

CONFIDENT = 0.95


@dataclass(frozen=True)
class Statistic:
    """One figure with what it does and does not say."""

    name: str
    value: str
    meaning: str


def probability(value: float) -> str:
    """A probability that does not pretend to certainty."""
    if not math.isfinite(value):
        return "–"
    return "< 0.01" if value < 0.01 else "> 0.99" if value > 0.99 else f"{value:.2f}"


@dataclass(frozen=True)
class Verdict:
    """Whether the best trial is better than its baselines after deflation.

    Attributes
    ----------
    answer : the sentence to read first.
    reason : the figures behind it; may be empty.
    """

    answer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.answer} {self.reason}".strip()


def verdict(run: RunResults, search: SearchStatistics | None) -> Verdict:
    """Whether the best trial is better than its baselines after deflation, in plain words."""
    best = run.best
    if best is None or search is None:
        failed = sum(trial.status == "failed" for trial in run.trials)
        count = f"{failed} of {len(run.trials)} failed"
        return Verdict(f"Nothing to judge: no trial has results ({count}).", "")
    done = sum(trial.status == "done" for trial in run.trials)
    partial = "" if done == len(run.trials) else f" so far ({done} of {len(run.trials)} trials)"
    return Verdict(_answer(run, best, search).format(partial), _reason(run, best, search))


def _answer(run: RunResults, best: TrialResults, search: SearchStatistics) -> str:
    """The answer, with a place for how far the run has come."""
    compared = {comparison.baseline for comparison in search.comparisons}
    if not run.manifest.baselines or compared != set(run.manifest.baselines):
        return "No verdict{}: there are no results of the baselines to compare with."
    if search.dsr[best.name] >= CONFIDENT and not _unbeaten(search):
        return "Yes{}: the best trial is better than its baselines, the search accounted for."
    return "No{}: the best trial is not shown to be better than its baselines."


def _unbeaten(search: SearchStatistics) -> list[Comparison]:
    return [c for c in search.comparisons if not c.probability >= CONFIDENT]


def _reason(run: RunResults, best: TrialResults, search: SearchStatistics) -> str:
    sharpe = best.summary["net_sharpe"]
    earned = f"{number(sharpe)} ± {number(best.summary['net_sharpe_se'])}"
    words = f"Its net Sharpe ratio is {earned} ({short(best.parameters)})"
    if search.n_trials > 1:
        words += (
            f"; the best of {search.n_trials} trials without skill would show about "
            f"{number(search.expected_max_sharpe)}"
        )
    level = {b.name: b.summary["net_sharpe"] for b in run.measured_baselines}
    ahead: list[str] = []
    close: list[str] = []
    behind: list[str] = []
    for comparison in search.comparisons:
        name = comparison.baseline
        better = comparison.probability >= CONFIDENT
        group = behind if better else ahead if level[name] >= sharpe else close
        group.append(f"{name} {number(level[name])}")
    for title, group in (("ahead of it", ahead), ("too close to tell", close), ("beaten", behind)):
        words += f"; {title}: {', '.join(group)}" if group else ""
    return words + "."


def statistics_in_words(run: RunResults, search: SearchStatistics) -> list[Statistic]:
    """Each statistic of the search with its caveat."""
    best = run.best
    if best is None:
        return []
    summary = best.summary
    return [
        Statistic(
            "Net Sharpe ratio of the best trial",
            f"{number(summary['net_sharpe'])} ± {number(summary['net_sharpe_se'])}",
            "Annual, out of sample, after costs. The error is Lo's (2002), allowing for fat "
            "tails and autocorrelation; it covers sampling only, not a change of regime, and not "
            "that this trial was picked for being the best.",
        ),
        Statistic(
            "Probabilistic Sharpe ratio",
            probability(summary["psr"]),
            "Probability that the true ratio is above zero if this had been the only trial."
            + (" It was not: read the next line." if search.n_trials > 1 else ""),
        ),
        *_search_statistics(search, search.dsr[best.name]),
        *[_comparison(comparison) for comparison in search.comparisons],
        *_persistence(run),
    ]


def _search_statistics(search: SearchStatistics, dsr: float) -> list[Statistic]:
    if search.n_trials < 2:
        return [
            Statistic(
                "Deflated Sharpe ratio",
                probability(dsr),
                "With one trial there is no search to deflate for: equal to the line above. "
                "Trials made in earlier runs on the same data count too, and are not in it.",
            )
        ]
    found = [
        Statistic(
            "Deflated Sharpe ratio",
            probability(dsr),
            f"Probability that the best of {search.n_trials} trials has skill (Bailey & López "
            f"de Prado 2014): the best of as many without any would show "
            f"{number(search.expected_max_sharpe)} a year. Above {CONFIDENT} is evidence. "
            "Earlier runs on the same data are trials too, and are not counted.",
        ),
        Statistic(
            "Effective number of trials",
            number(search.effective_trials, 1),
            f"Independent trials that the {search.judged_trials} judged ones amount to. The "
            f"deflation above counts all {search.n_trials} of the grid, failed and unfinished ones "
            "too: the stricter choice.",
        ),
    ]
    overfitting = search.overfitting
    if overfitting is not None:
        found.append(
            Statistic(
                "Probability of backtest overfitting",
                number(overfitting.probability),
                f"How often the best trial of one half of the history ranks in the lower half "
                f"of the other, over {len(overfitting.logits):,} ways of halving it (CSCV, "
                "Bailey et al. 2015). 0.5 is what noise gives. It judges the choice within "
                "this grid: a low value among trials that all lose is no comfort. In "
                f"{percent(overfitting.probability_of_loss, 0)} of the ways the choice lost "
                "money.",
            )
        )
    return found


def _comparison(comparison: Comparison) -> Statistic:
    return Statistic(
        f"Better than {comparison.baseline}",
        probability(comparison.probability),
        f"The net Sharpe ratio differs by {number(comparison.sharpe_difference)} ± "
        f"{number(comparison.standard_error)} (Jobson & Korkie 1981, Memmel 2003). The "
        "probability takes off what picking the best trial gives by luck.",
    )


def _persistence(run: RunResults) -> list[Statistic]:
    persistence = rank_persistence(run)
    if math.isnan(persistence):
        return []
    return [
        Statistic(
            "Rank persistence",
            number(persistence),
            "Mean rank correlation of the trials' Sharpe ratios in one fold and in the next. "
            "Near 0, the parameters that did well say nothing about those that will.",
        )
    ]


def caveats(run: RunResults) -> list[str]:
    """What no figure in the report can show."""
    settings = run.manifest.settings
    return [
        _survivorship(run),
        _delistings(settings.costs),
        _execution(settings),
        _costs(run),
        _baselines(),
    ]


def _survivorship(run: RunResults) -> str:
    if run.manifest.data.source == "sample":
        return (
            "Survivorship bias: the sample holds 20 companies that are large today. That they "
            "survived was not known at the time, so every figure is flattered, the equal-weight "
            "baseline most of all."
        )
    return (
        "Survivorship bias: a run cannot know how its list of names was chosen. If it holds "
        "companies picked today (say, present members of an index), failures are missing, every "
        "figure is flattered, and the equal-weight baseline most of all."
    )


def _delistings(costs: CostConfig) -> str:
    booked = costs.delisting_return
    harm = (
        " Names that fail often pay less, so this flatters; repeat with a loss such as -0.3."
        if booked >= 0
        else ""
    )
    return (
        "Delistings: a held name whose prices end is paid out at its last price times "
        f"(1 + delisting_return), here {1 + booked:g} times (delisting_return {booked:g}), "
        f"whatever the reason.{harm}"
    )


def _execution(settings: Settings) -> str:
    lag = settings.walk_forward.execution_lag
    if lag == 1:
        return (
            "Execution: decided and filled at the same close (execution_lag 1), which takes a "
            "closing-auction order placed a moment before. Repeat with execution_lag 2 to "
            "see what one bar's delay costs."
        )
    return f"Execution: filled {lag - 1} bar(s) after the close that decided (execution_lag {lag})."


def _costs(run: RunResults) -> str:
    costs = run.manifest.settings.costs
    measured = [trial.returns["impact"] for trial in (*run.trials, *run.baselines)]
    impact = (
        f"impact as the square-root law at {costs.nav_usd:,.0f} USD, where traded value is known"
        if any((impact > 0).any() for impact in measured) or not any(map(len, measured))
        else "no market impact, for the data has no traded value"
    )
    return (
        f"Costs are a model: {costs.half_spread_bps:g} bps half-spread and "
        f"{costs.commission_bps:g} bps commission on all that is traded, "
        f"{costs.borrow_bps_per_year:g} bps a year to borrow, {impact}. Financing and interest "
        "on cash are left out, for the model and the baselines alike."
    )


def _baselines() -> str:
    return (
        "Baselines: same test dates, costs and execution lag; equal_weight is long only and "
        "carries the market's risk, the others are held to the same limits as the model. Their "
        "settings were fixed beforehand, so they need no deflation."
    )
