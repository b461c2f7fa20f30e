"""Statistics of one series, against other libraries, hand computation and simulation."""

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from scipy.signal import lfilter

from dpa.errors import ConfigError, DataError
from dpa.validation.statistics import (
    annual_return,
    annual_volatility,
    autocorrelation_adjusted_sharpe,
    deflated_sharpe_ratio,
    deflated_sharpe_ratios,
    drawdowns,
    expected_max_sharpe,
    hit_rate,
    max_drawdown,
    newey_west_lags,
    probabilistic_sharpe_ratio,
    sharpe_confidence,
    sharpe_ratio,
    sharpe_standard_error,
    sortino_ratio,
    summary,
)

ALL = [
    lambda r: sharpe_ratio(r, 252),
    lambda r: sharpe_standard_error(r, 252),
    lambda r: autocorrelation_adjusted_sharpe(r, 252, 0),
    lambda r: sortino_ratio(r, 252),
    lambda r: annual_return(r, 252),
    lambda r: annual_volatility(r, 252),
    max_drawdown,
    hit_rate,
    probabilistic_sharpe_ratio,
    lambda r: summary(r, 252),
]


@pytest.fixture(scope="module")
def ffn():
    with warnings.catch_warnings():  # its imports are not ours to mend
        warnings.simplefilter("ignore")
        return pytest.importorskip("ffn")


@pytest.fixture(scope="module")
def skfolio_measures():
    return pytest.importorskip("skfolio.measures", reason="an extra")


@pytest.fixture
def daily():
    rng = np.random.default_rng(5)
    returns = 0.0006 + 0.01 * rng.standard_t(4, size=1000)
    return pd.Series(returns, index=pd.bdate_range("2015-01-02", periods=1000))


def ar1(shape, coefficient, rng):
    noise = rng.standard_normal((shape[0], shape[1] + 200))
    return lfilter([1.0], [1.0, -coefficient], noise, axis=1)[:, 200:]


def test_ratios_are_those_of_ffn(ffn, daily):
    assert sharpe_ratio(daily, 252) == pytest.approx(ffn.calc_sharpe(daily, nperiods=252))
    assert sortino_ratio(daily, 252) == pytest.approx(ffn.calc_sortino_ratio(daily, nperiods=252))


def test_drawdown_and_growth_are_those_of_ffn(ffn, daily):
    before = daily.index[0] - pd.offsets.BDay()
    prices = pd.concat([pd.Series([1.0], [before]), (1 + daily).cumprod()])
    assert max_drawdown(daily) == pytest.approx(-ffn.calc_max_drawdown(prices))
    np.testing.assert_allclose(drawdowns(daily), -ffn.to_drawdown_series(prices)[1:], atol=1e-12)
    years = ffn.year_frac(prices.index[0], prices.index[-1])
    assert annual_return(daily, len(daily) / years) == pytest.approx(ffn.calc_cagr(prices))


def test_selection_statistics_are_those_of_skfolio(skfolio_measures, daily):
    trials = np.random.default_rng(0).normal(0, 0.03, 27)
    assert probabilistic_sharpe_ratio(daily, 0.02) == pytest.approx(
        skfolio_measures.probabilistic_sharpe_ratio(daily.to_numpy(), 0.02)
    )
    assert expected_max_sharpe(trials.var(ddof=1), 27) == pytest.approx(
        skfolio_measures.expected_max_sharpe_ratio(27, trials.std(ddof=1))
    )
    assert deflated_sharpe_ratio(daily, trials) == pytest.approx(
        skfolio_measures.deflated_sharpe_ratio(daily.to_numpy(), trials)
    )


def test_the_worked_example_of_the_deflated_sharpe_paper():
    """Bailey & López de Prado (2014): SR 2.5 a year, 1250 days, V 1/2 a year, 100 trials."""
    benchmark = expected_max_sharpe(0.5 / 250, 100)
    assert benchmark == pytest.approx(0.1132, abs=1e-4)
    confidence = sharpe_confidence(2.5 / math.sqrt(250), benchmark, 1250, -3, 10)
    assert confidence == pytest.approx(0.9004, abs=1e-4)


def test_hand_computed_values():
    returns = [0.10, -0.20, 0.0, 0.10]
    assert max_drawdown(returns) == pytest.approx(0.20)
    assert annual_return(returns, 4) == pytest.approx(1.1 * 0.8 * 1.1 - 1)
    assert annual_return(returns, 8) == pytest.approx((1.1 * 0.8 * 1.1) ** 2 - 1)
    assert hit_rate(returns) == pytest.approx(2 / 3)
    assert annual_volatility(returns, 4) == pytest.approx(2 * math.sqrt(0.06 / 3))
    assert sortino_ratio([0.2, -0.1], 1) == pytest.approx(0.05 / math.sqrt(0.01 / 2))


def test_drawdown_counts_a_loss_on_the_first_bar_and_stays_at_ruin():
    np.testing.assert_allclose(drawdowns([-0.1, 0.2, 0.0]), [0.1, 0.0, 0.0])
    np.testing.assert_allclose(drawdowns([0.5, -1.2, 3.0]), [0.0, 1.0, 1.0])
    assert annual_return([0.5, -1.2, 3.0], 252) == -1.0


def test_plain_standard_error_is_the_formula_of_lo():
    returns = np.array([0.0, 2.0] * 50)
    returns = 1.0 + (returns - 1.0) / returns.std(ddof=1)  # Sharpe ratio 1 per bar
    assert sharpe_standard_error(returns, 1) == pytest.approx(math.sqrt(1.5 / 100))
    assert sharpe_standard_error(returns, 252) == pytest.approx(math.sqrt(252 * 1.5 / 100))


def test_standard_error_is_the_spread_of_the_estimate():
    rng = np.random.default_rng(1)
    samples = rng.normal(0.3, 1.0, size=(4000, 250))
    spread = np.std([sharpe_ratio(sample, 252) for sample in samples])
    claimed = np.mean([sharpe_standard_error(sample, 252) for sample in samples[:200]])
    assert claimed == pytest.approx(spread, rel=0.05)


def test_robust_standard_error_sees_skewness_where_the_plain_one_does_not():
    rng = np.random.default_rng(2)
    samples = 1.0 - rng.exponential(1.0, size=(4000, 500)) + 0.5  # skewness -2, Sharpe 0.5
    spread = np.std([sharpe_ratio(sample, 1) for sample in samples])
    robust = np.mean([sharpe_standard_error(sample, 1, lags=0) for sample in samples[:200]])
    plain = np.mean([sharpe_standard_error(sample, 1) for sample in samples[:200]])
    assert robust == pytest.approx(spread, rel=0.08)
    assert plain < 0.8 * spread


def test_robust_standard_error_without_lags_is_that_of_mertens(daily):
    values = daily.to_numpy()
    ratio = values.mean() / values.std()
    variance = 1 - stats.skew(values) * ratio
    variance += (stats.kurtosis(values, fisher=False) - 1) / 4 * ratio**2
    assert sharpe_standard_error(daily, 1, lags=0) == pytest.approx(math.sqrt(variance / 1000))


def test_robust_standard_error_by_the_double_sum_of_newey_and_west(daily):
    values, lags = daily.to_numpy()[:60], 4
    deviation = values - values.mean()
    variance = np.mean(deviation**2)
    ratio = values.mean() / math.sqrt(variance)
    moments = np.column_stack([deviation, deviation**2 - variance])
    gradient = np.array([1 / math.sqrt(variance), -ratio / (2 * variance)])
    covariance = np.zeros((2, 2))
    for first, second in itertools.product(range(60), repeat=2):
        weight = max(0.0, 1 - abs(first - second) / (lags + 1))
        covariance += weight * np.outer(moments[first], moments[second]) / 60
    expected = math.sqrt(gradient @ covariance @ gradient / 60)
    assert sharpe_standard_error(values, 1, lags=lags) == pytest.approx(expected)


def test_newey_west_lags_make_the_error_right_under_autocorrelation():
    samples = ar1((2000, 1000), 0.4, np.random.default_rng(3))
    spread = np.std([sharpe_ratio(sample, 1) for sample in samples])
    robust = np.mean([sharpe_standard_error(sample, 1, lags=20) for sample in samples[:200]])
    plain = np.mean([sharpe_standard_error(sample, 1) for sample in samples[:200]])
    assert robust == pytest.approx(spread, rel=0.08)
    assert plain < 0.8 * spread
    assert newey_west_lags(100) == 4
    assert newey_west_lags(1000) == 6


def test_autocorrelation_adjusted_sharpe_is_the_sharpe_of_the_aggregated_returns():
    returns = 0.1 + ar1((1, 400_000), 0.5, np.random.default_rng(4))[0]
    years = returns.reshape(-1, 20).sum(axis=1)  # q = 20 bars a year
    adjusted = autocorrelation_adjusted_sharpe(returns, 20, lags=19)
    assert adjusted == pytest.approx(sharpe_ratio(years, 1), rel=0.03)
    assert sharpe_ratio(returns, 20) > 1.5 * adjusted
    assert autocorrelation_adjusted_sharpe(returns, 20, lags=0) == pytest.approx(
        sharpe_ratio(returns, 20)
    )


def test_annual_figures_do_not_depend_on_the_interval_the_returns_come_in():
    rng = np.random.default_rng(6)
    fine = rng.normal(2e-5, 0.001, size=252 * 40 * 13)  # 13 bars a day
    coarse = np.prod(1 + fine.reshape(-1, 13), axis=1) - 1
    assert annual_return(fine, 252 * 13) == pytest.approx(annual_return(coarse, 252), rel=1e-9)
    assert sharpe_ratio(fine, 252 * 13) == pytest.approx(sharpe_ratio(coarse, 252), rel=0.03)
    assert sortino_ratio(fine, 252 * 13) == pytest.approx(sortino_ratio(coarse, 252), rel=0.05)
    assert annual_volatility(fine, 252 * 13) == pytest.approx(
        annual_volatility(coarse, 252), rel=0.02
    )
    assert sharpe_standard_error(fine, 252 * 13) == pytest.approx(
        sharpe_standard_error(coarse, 252), rel=0.01
    )


returns_of_any_kind = hnp.arrays(
    float,
    st.integers(2, 60),
    elements=st.floats(-0.5, 0.5).map(lambda value: round(value, 6)),
)


@settings(max_examples=150, deadline=None)
@given(returns=returns_of_any_kind)
def test_bounds_that_always_hold(returns):
    falls = drawdowns(returns)
    assert (falls >= 0).all()
    assert (falls <= 1).all()
    assert annual_return(returns, 252) >= -1
    assert not sharpe_standard_error(returns, 252) < math.sqrt(252 / len(returns)) * (1 - 1e-12)
    for probability in (hit_rate(returns), probabilistic_sharpe_ratio(returns)):
        assert math.isnan(probability) or 0 <= probability <= 1
    ratio = sharpe_ratio(returns, 252)
    if np.ptp(returns) > 1e-4:
        assert sharpe_ratio(-returns, 252) == pytest.approx(-ratio)
        assert sharpe_ratio(3 * returns, 252) == pytest.approx(ratio)
        assert np.sign(sortino_ratio(returns, 252)) in (np.sign(ratio), 0) or (returns >= 0).all()


@settings(max_examples=50, deadline=None)
@given(
    ratio=st.floats(-0.3, 0.3),
    benchmark=st.floats(-0.3, 0.3),
    step=st.floats(1e-3, 0.2),
    n_bars=st.integers(30, 3000),
)
def test_confidence_falls_as_the_benchmark_rises(ratio, benchmark, step, n_bars):
    low = sharpe_confidence(ratio, benchmark, n_bars, -0.5, 6)
    high = sharpe_confidence(ratio, benchmark + step, n_bars, -0.5, 6)
    assert high <= low
    assert sharpe_confidence(ratio, ratio, n_bars, -0.5, 6) == 0.5


def test_confidence_is_uniform_when_there_is_no_skill():
    rng = np.random.default_rng(7)
    levels = [
        probabilistic_sharpe_ratio(rng.exponential(1.0, 400) - 1.0) for _ in range(1000)
    ]  # skewed on purpose
    assert np.mean(np.array(levels) > 0.95) == pytest.approx(0.05, abs=0.025)
    assert np.mean(levels) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("n_trials", [2, 5, 27, 200])
def test_expected_max_sharpe_is_the_mean_of_the_best_draw(n_trials):
    best = np.random.default_rng(8).normal(0, 0.7, size=(20_000, n_trials)).max(axis=1).mean()
    assert expected_max_sharpe(0.49, n_trials) == pytest.approx(best, rel=0.09)


def test_expected_max_sharpe_grows_with_the_number_of_trials_from_zero():
    grown = [expected_max_sharpe(1.0, n) for n in np.linspace(1, 500, 2000)]
    assert grown[0] == 0
    assert (np.diff(grown) >= 0).all()


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_best_of_27_noise_trials_rarely_passes(correlation):
    rng = np.random.default_rng(9)
    passed = 0
    for _ in range(100):
        common = rng.normal(size=(500, 1)) * math.sqrt(correlation)
        trials = common + rng.normal(size=(500, 27)) * math.sqrt(1 - correlation)
        passed += deflated_sharpe_ratios(0.01 * trials).max() > 0.95
    assert passed <= 10


def test_the_wrong_unit_would_pass_noise_and_the_right_one_does_not():
    """An annual benchmark against a ratio per bar, or the reverse, makes the test worthless."""
    rng = np.random.default_rng(10)
    right = wrong = 0
    for _ in range(100):
        trials = rng.normal(size=(1000, 27))
        sharpes = np.array([sharpe_ratio(column, 1) for column in trials.T])
        best = trials[:, sharpes.argmax()]
        right += deflated_sharpe_ratio(best, sharpes) > 0.95
        wrong += deflated_sharpe_ratio(best, sharpes / math.sqrt(252)) > 0.95
    assert right <= 5
    assert wrong >= 40


def test_a_truly_good_trial_passes():
    trials = np.random.default_rng(11).normal(size=(1500, 27))
    trials[:, 4] += 0.2
    deflated = deflated_sharpe_ratios(trials)
    assert deflated[4] > 0.99
    assert np.delete(deflated, 4).max() < 0.5
    sharpes = [sharpe_ratio(column, 1) for column in trials.T]
    assert deflated[4] == deflated_sharpe_ratio(trials[:, 4], sharpes, 27)


def test_more_trials_deflate_more():
    trials = np.random.default_rng(12).normal(0.03, 1, size=(1000, 27))
    assert (deflated_sharpe_ratios(trials, 200) < deflated_sharpe_ratios(trials)).all()
    assert (deflated_sharpe_ratios(trials, 3) > deflated_sharpe_ratios(trials)).all()


def test_a_trial_that_stayed_flat_has_no_skill_rather_than_no_number():
    flat = np.zeros(300)
    assert sharpe_ratio(flat, 252) == 0
    assert sortino_ratio(flat, 252) == 0
    assert probabilistic_sharpe_ratio(flat) == 0.5
    assert max_drawdown(flat) == 0
    assert math.isnan(hit_rate(flat))
    assert annual_volatility(flat, 252) == 0
    trials = np.column_stack([flat, np.random.default_rng(0).normal(size=(300, 5))])
    assert deflated_sharpe_ratios(trials)[0] < 0.5


def test_undefined_ratios_are_nan():
    for returns in ([0.01], [0.01] * 10):
        assert math.isnan(sharpe_ratio(returns, 252))
        assert math.isnan(sharpe_standard_error(returns, 252))
        assert math.isnan(probabilistic_sharpe_ratio(returns))
        assert math.isnan(sortino_ratio(returns, 252))
    assert math.isnan(annual_volatility([0.01], 252))
    assert math.isnan(sharpe_confidence(0.1, 0.0, 1, 0, 3))
    with pytest.raises(DataError, match="column 1 has no Sharpe ratio"):
        deflated_sharpe_ratios(np.column_stack([[0.1, 0.2, 0.3], [0.1] * 3]))


@pytest.mark.parametrize("statistic", ALL)
@pytest.mark.parametrize("bad", [[], [0.1, float("nan")], [float("inf"), 0.1], [[0.1, 0.2]]])
def test_missing_or_misshapen_returns_are_refused(statistic, bad):
    with pytest.raises(DataError):
        statistic(bad)


def test_the_error_names_the_bar():
    with pytest.raises(DataError, match=r"entry \[2\] is nan"):
        sharpe_ratio([0.1, 0.2, float("nan")], 252)


@pytest.mark.parametrize("periods", [0, -252, float("nan"), float("inf")])
def test_a_year_without_bars_is_refused(periods):
    with pytest.raises(ConfigError, match="periods_per_year"):
        sharpe_ratio([0.1, 0.2], periods)


@pytest.mark.parametrize(
    "call",
    [
        lambda: expected_max_sharpe(-1, 5),
        lambda: expected_max_sharpe(1, 0.5),
        lambda: sharpe_standard_error([0.1, 0.2, 0.1], 252, lags=3),
        lambda: autocorrelation_adjusted_sharpe([0.1, 0.2, 0.1], 252, lags=-1),
    ],
)
def test_bad_arguments_are_refused(call):
    with pytest.raises(ConfigError):
        call()


def test_summary_holds_the_single_statistics(daily):
    figures = summary(daily, 252)
    assert figures["sharpe"] == sharpe_ratio(daily, 252)
    assert figures["sharpe_se"] == sharpe_standard_error(daily, 252)
    assert figures["sharpe_se_robust"] == sharpe_standard_error(daily, 252, newey_west_lags(1000))
    assert figures["total_return"] == pytest.approx(np.prod(1 + daily) - 1)
    assert figures["max_drawdown"] == max_drawdown(daily)
    assert figures["kurtosis"] == pytest.approx(stats.kurtosis(daily, fisher=False))
    assert figures["psr"] == probabilistic_sharpe_ratio(daily)
    assert set(summary([0.01], 252)) == set(figures)
