"""One frozen settings tree: defaults < YAML < environment < command line.

Every number has its unit and bounds here and nowhere else. Unknown keys are errors.
Lengths of time are counted in bars of the data's interval; limits are fractions (0.02, never 2.0).
"""

import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dpa.errors import ConfigError

ENV_PREFIX = "DPA__"  # DPA__MODEL__WINDOW=60 sets model.window


class Frozen(BaseModel):
    """Base of every settings section: immutable, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def absent(value: Any) -> bool:
    """Whether `value` is the word that stands for an absent value: ``none`` or ``null``."""
    return isinstance(value, str) and value.strip().lower() in ("none", "null")


class Section(Frozen):
    """Base of the sections of the tree: ``none`` is an absent value where a field allows that."""

    @field_validator("*", mode="before")
    @classmethod
    def _absent(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = get_args(cls.model_fields[str(info.field_name)].annotation)
        return None if type(None) in kinds and absent(value) else value


class DataConfig(Section):
    """What is read, and which names may be traded on each date."""

    path: str | None = Field(
        None,
        description="wide or long CSV/Parquet file, or a directory of shards; none: sample, for "
        "predictors an invented market",
    )
    calendar: str = Field("XNYS", description="exchange_calendars code of the venue")
    interval: str | None = Field(None, description="bar length such as 5m, 1h, 1d; none: inferred")
    stamps: Literal["close", "start", "auto"] = Field(
        "close",
        description="whether time stamps of intraday bars mark their close or their start; auto: "
        "told from the edges of sessions, refused where they do not tell",
    )
    time_zone: str | None = Field(
        None, description="time zone of naive time stamps; none: the calendar's own"
    )
    start: str | None = Field(None, description="first date used, inclusive (YYYY-MM-DD)")
    end: str | None = Field(None, description="last date used, inclusive (YYYY-MM-DD)")
    names: tuple[str, ...] | None = Field(None, description="only these names; none: all")
    drop_empty_names: bool = Field(
        False, description="leave out names without a single price instead of refusing them"
    )
    dollar_volume_path: str | None = Field(
        None, description="wide file of traded value per bar, USD, for liquidity and impact"
    )
    min_history_bars: int = Field(
        0, ge=0, description="bars a name must have traded before it may be held"
    )
    min_dollar_volume: float = Field(
        0.0, ge=0, description="least median traded value per bar over the look-back, USD"
    )
    top_by_dollar_volume: int | None = Field(
        None, ge=1, description="keep only this many most liquid names on each date"
    )
    liquidity_lookback_bars: int = Field(
        63, ge=1, description="bars of the rolling median of traded value"
    )

    @field_validator("start", "end", mode="before")
    @classmethod
    def _date_text(cls, value: Any) -> Any:
        """YAML makes a date of 2008-01-01 without quotes."""
        return value.isoformat() if isinstance(value, date) else value


class ClusterConfig(Section):
    """The differentiable cluster model: one instance is one point of the grid."""

    features: Literal["returns", "price_path"] = Field(
        "returns", description="what a name's unit vector is made of"
    )
    centroids: Literal["comovement", "shape"] = Field(
        "comovement", description="centroids that follow their members, or fixed learnable shapes"
    )
    window: int = Field(60, ge=5, le=5000, description="bars in a name's unit vector")
    n_clusters: int = Field(10, ge=1, le=500, description="number of clusters")
    similarity_threshold: float = Field(
        0.5, ge=-1, le=1, description="cosine below which a name is an outlier (start value)"
    )
    gate_sharpness: float = Field(20.0, gt=0, description="slope of the outlier gate, per cosine")
    temperature: float = Field(
        0.1, gt=0, le=10, description="softmax temperature of the assignments (start value)"
    )
    unroll_steps: int = Field(
        1, ge=0, le=10, description="soft spherical k-means steps per bar (comovement)"
    )
    reseed_bars: int = Field(
        63, ge=1, description="bars between k-means++ challenges of the tracked clusters"
    )
    signal_window: int | None = Field(
        None, ge=5, description="bars of residual history behind the s-score; none: window"
    )
    entry_threshold: float = Field(
        1.25, gt=0, description="|s| above which a position opens (start value)"
    )
    stop_threshold: float = Field(
        4.0, gt=0, description="|s| above which a position is given up (start value)"
    )
    signal_scale: float = Field(
        1.0, gt=0, description="k of the direction -tanh(k s) (start value)"
    )
    band_sharpness: float = Field(10.0, gt=0, description="slope of the band-pass edges, per s")
    max_age: int | None = Field(30, ge=1, description="bars a position may live; none: no limit")
    age_sharpness: float = Field(4.0, gt=0, description="slope of the age gate, per bar")
    position_unit: float = Field(
        0.02, gt=0, le=1, description="weight of a full signal, fraction of NAV"
    )
    name_cap: float = Field(
        0.05, gt=0, le=1, description="most weight of one name, fraction of NAV"
    )
    max_leverage: float = Field(1.0, gt=0, le=10, description="most gross exposure, times NAV")
    dollar_neutral: bool = Field(True, description="long and short weights sum to zero")
    learn: bool = Field(True, description="train the parameters; off: the start values are kept")
    learn_thresholds: bool = Field(
        True, description="learn temperature, similarity, entry and stop thresholds, signal scale"
    )
    learn_lag_weights: bool = Field(
        True, description="learn the weight of each lag of the window (comovement)"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.stop_threshold <= self.entry_threshold:
            raise ValueError(
                f"stop_threshold {self.stop_threshold} must exceed "
                f"entry_threshold {self.entry_threshold}"
            )
        return self

    @property
    def residual_bars(self) -> int:
        """Bars of residual history behind the s-score."""
        return self.signal_window or self.window

    @property
    def context_bars(self) -> int:
        """Bars needed before the first bar that can carry a signal."""
        return self.window + self.residual_bars


class TrainingConfig(Section):
    """How one fold is trained."""

    mode: Literal["soft", "anneal"] = Field(
        "soft", description="train and trade soft; or anneal to hard decisions and trade hard"
    )
    epochs: int = Field(30, ge=1, le=10000, description="most passes over a fold")
    patience: int = Field(
        8, ge=1, description="epochs without a better validation loss before stopping"
    )
    learning_rate: float = Field(0.03, gt=0, le=1, description="Adam step size")
    validation_fraction: float = Field(
        0.25, ge=0, lt=0.9, description="tail of the training window kept for early stopping"
    )
    turnover_budget: float = Field(
        0.5, ge=0, description="turnover per bar free of penalty, fraction of NAV"
    )
    turnover_penalty: float = Field(
        0.1, ge=0, description="annual Sharpe given up per unit of turnover above the budget"
    )
    leverage_penalty: float = Field(
        1.0, ge=0, description="weight of mean relu(gross - max_leverage)^2"
    )
    gradient_clip: float = Field(1.0, gt=0, description="largest gradient norm of one step")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="root of every random number")


class WalkForwardConfig(Section):
    """How history is cut into training and test windows."""

    train_bars: int = Field(252, ge=10, description="bars in a training window")
    test_bars: int = Field(63, ge=1, description="bars in a test window, and the slide")
    embargo_bars: int = Field(
        0, ge=0, description="bars dropped between training and test beyond the purge"
    )
    execution_lag: int = Field(
        1, ge=1, le=100, description="bars between a signal and its first return"
    )
    min_test_bars: int = Field(5, ge=1, description="a last window with fewer test bars is dropped")


class CostConfig(Section):
    """What trading costs; one object serves loss, backtest, sizing and fills."""

    half_spread_bps: float = Field(
        4.0, ge=0, le=1000, description="half the quoted spread, bps of traded value"
    )
    commission_bps: float = Field(1.0, ge=0, le=1000, description="commission, bps of traded value")
    impact_coefficient: float = Field(
        1.0, ge=0, le=100, description="k of k*sigma_day*sqrt(q/ADV); needs dollar volume"
    )
    borrow_bps_per_year: float = Field(
        50.0, ge=0, le=100000, description="fee on short value, bps per year"
    )
    nav_usd: float = Field(
        10_000_000.0, gt=0, description="NAV that turns weights into USD for impact"
    )
    delisting_return: float = Field(
        0.0, ge=-1, le=1, description="return booked when a held name stops trading for good"
    )


class HorizonsConfig(Section):
    """What the predictors forecast, from what, and how history is cut for them."""

    horizons: tuple[str, ...] | None = Field(
        None,
        description="lengths forecast, in session time, such as 5m,30m,1d; none: "
        "5m,10m,15m,30m,60m,1d on intraday bars, 1d,2d,5d,10d,21d on daily ones",
    )
    primary_horizon: str | None = Field(
        None, description="the horizon that matters most; none: the shortest"
    )
    feature_list: tuple[str, ...] | None = Field(
        None, description="features used, see 'dpa features list'; none: all the data allow"
    )
    families: tuple[str, ...] = Field(
        ("cluster", "ridge", "gbdt", "encoder"), description="model families"
    )
    cluster: str = Field(
        "train",
        description="cluster model behind its features and family: train (one, on the first "
        "training window), absent, or a model's folder or a run of the grid",
    )
    plugins: tuple[str, ...] = Field(
        (), description="Python files or modules with features and families of your own"
    )
    sigma_minutes: int | None = Field(
        None,
        ge=30,
        le=400000,
        description="long look-back: of the volatility and of what is usual, session minutes; "
        "none: 1950 on intraday bars, 23400 on daily ones",
    )
    coverage: float = Field(
        0.5, gt=0, le=1, description="fraction of a look-back's bars that must be there"
    )
    min_features: float = Field(
        0.7, gt=0, le=1, description="fraction of features a row needs to be forecast"
    )
    target: Literal["excess", "return"] = Field(
        "excess",
        description="what is forecast: the return in excess of the members' mean, or the return",
    )
    target_clip: float = Field(
        5.0, gt=0, le=100, description="scaled returns are cut to +- this for learning"
    )
    barrier_minutes: int = Field(
        30, ge=1, le=10000, description="how far ahead the barriers look, session minutes"
    )
    barrier_width: float = Field(
        0.75, gt=0, le=10, description="k of the barriers +-k sigma sqrt(minutes)"
    )
    train_sessions: int = Field(60, ge=2, le=10000, description="sessions in a training window")
    test_sessions: int = Field(
        20, ge=1, le=10000, description="sessions in a test window, and the slide"
    )
    embargo_minutes: int = Field(
        0, ge=0, le=100000, description="session minutes dropped beyond the purge"
    )
    holdout: float = Field(
        0.2, gt=0, lt=0.9, description="tail of the training window kept for early stopping"
    )
    sessions_per_block: int | None = Field(
        None,
        ge=1,
        le=10000,
        description="sessions in one file of features; none: 5 on intraday bars, 250 on daily ones",
    )
    placebo: bool = Field(
        False,
        description="give each name the labels of another, to learn from and to be tested on: "
        "every IC must be 0",
    )
    horizon_seed: int = Field(
        0, ge=0, le=2**31 - 1, description="root of the predictors' random numbers"
    )


class FamiliesConfig(Section):
    """How each family learns."""

    ridge_penalty: float | None = Field(
        None, ge=0, description="L2 penalty as a fraction of the rows; none: chosen on the holdout"
    )
    cluster_penalty: float = Field(
        0.01, ge=0, description="L2 penalty of the cluster family, fraction of the rows"
    )
    gbdt_loss: Literal["l2", "huber"] = Field(
        "l2", description="loss of the scaled returns: squared, or linear beyond one unit"
    )
    gbdt_trees: int = Field(100, ge=1, le=10000, description="most trees per target")
    gbdt_leaves: int = Field(8, ge=2, le=1000, description="leaves of a tree")
    gbdt_rate: float = Field(0.07, gt=0, le=1, description="shrinkage of each tree")
    gbdt_min_rows: int = Field(100, ge=1, description="least rows in a leaf")
    gbdt_min_share: float = Field(
        0.05,
        ge=0,
        lt=0.5,
        description="least share of the rows in a leaf: rows of neighbouring bars and of one bar's "
        "names are far from independent",
    )
    gbdt_bins: int = Field(63, ge=2, le=255, description="bins of a feature")
    gbdt_fraction: float = Field(
        0.5, gt=0, le=1, description="rows, and features, drawn for each tree"
    )
    gbdt_patience: int = Field(20, ge=1, description="trees without a better holdout to stop after")
    encoder_width: int = Field(16, ge=2, le=4096, description="units of the hidden layers")
    encoder_layers: int = Field(1, ge=1, le=10, description="hidden layers of the shared encoder")
    encoder_norm: bool = Field(False, description="layer normalisation before each activation")
    encoder_dropout: float = Field(0.3, ge=0, lt=1, description="dropout while training")
    encoder_epochs: int = Field(40, ge=1, le=10000, description="most passes over the rows")
    encoder_patience: int = Field(
        8, ge=1, description="epochs without a better holdout to stop after"
    )
    encoder_rate: float = Field(5e-4, gt=0, le=1, description="AdamW step size")
    encoder_decay: float = Field(1e-3, ge=0, description="AdamW weight decay")
    encoder_batch: int = Field(4096, ge=1, description="rows of one step")
    loss_weights: Literal["equal", "decay", "uncertainty"] = Field(
        "decay",
        description="weights of the heads: equal; falling from the primary horizon; learned "
        "(Kendall et al. 2018)",
    )
    loss_decay: float = Field(
        0.5, ge=0, le=10, description="fall of the weight per doubling of the horizon (decay)"
    )


class StackingConfig(Section):
    """How families and horizons are combined, and barrier probabilities calibrated."""

    stack_decay: Literal["exponential", "linear", "inverse"] = Field(
        "exponential", description="how far horizons count less, by distance in log2(minutes)"
    )
    stack_half_life: float = Field(
        1.0, gt=0, le=100, description="doublings of the horizon that halve its prior weight"
    )
    stack_penalty: float = Field(
        0.01, ge=0, description="ridge of the stacker, fraction of the rows"
    )
    reference_horizon: str | None = Field(
        None, description="horizon the distances are measured from; none: the one forecast"
    )
    calibration: Literal["platt", "isotonic"] = Field(
        "platt", description="map from raw to calibrated barrier probability"
    )


class StandardiseConfig(Section):
    """Forecasts as scores: how unusual each is for its symbol, family and horizon."""

    score_sessions: int = Field(
        10,
        ge=1,
        le=250,
        description="whole sessions of past forecasts behind mean and deviation, beside what "
        "passed of the current one",
    )
    score_samples: int = Field(
        100, ge=2, le=100000, description="past forecasts a score needs; fewer give none"
    )
    score_clip: float = Field(3.0, gt=0, le=10, description="scores are cut to +- this")


class ConfidenceConfig(Section):
    """How far each family is believed at each horizon, from what came of its forecasts."""

    ic_half_life_sessions: float = Field(
        10.0, gt=0, le=1000, description="sessions that halve the weight of a matured forecast"
    )
    ic_prior_samples: float = Field(
        2000.0,
        ge=0,
        description="n0 of IC n/(n + n0), n counted in independent names times bars: 2000 is a "
        "prior standard deviation of the IC of 0.022",
    )
    freshness_share: float = Field(
        0.5, gt=0, le=10, description="time constant of a forecast's age, share of its horizon"
    )
    freshness_cap_seconds: float = Field(
        7200.0, gt=0, description="longest time constant of a forecast's age, seconds"
    )
    capacity_share: float = Field(
        0.01, gt=0, le=1, description="share of the daily traded value that an order may be"
    )


class BlendConfig(Section):
    """How the families' scores become one alpha a horizon."""

    blend_ridge: float = Field(
        0.15, gt=0, le=100, description="lambda of (S + lambda I)^-1 mu, S of scores"
    )
    cost_aversion: float = Field(
        0.01, ge=0, le=10, description="IC given up per unit of cost over volatility"
    )
    covariance_half_life_sessions: float = Field(
        10.0, gt=0, le=1000, description="sessions that halve the weight of past scores in S"
    )
    temperatures: tuple[str, ...] = Field(
        ("5m=0.75", "10m=0.85", "15m=0.9", "30m=1"),
        description="T of w^T by horizon, in (0, 1]: below 1 flattens; linear in log2(minutes) "
        "between, constant outside",
    )

    @field_validator("temperatures")
    @classmethod
    def _flattening(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            _, _, value = entry.partition("=")
            try:
                good = 0.0 < float(value) <= 1.0
            except ValueError:
                good = False
            if not good:
                raise ValueError(f"{entry!r} is not a horizon and a T in (0, 1], such as 5m=0.75")
        return entries


class OnlineConfig(Section):
    """Weights learned from each family's counterfactual profit, mixed into the blend."""

    online_mode: Literal["adahedge", "exp3ix", "off"] = Field(
        "adahedge", description="full information, bandit feedback, or none"
    )
    online_share: float = Field(
        0.3, ge=0, le=1, description="share of the online weights after warm-up"
    )
    online_warmup: int = Field(
        100, ge=0, description="matured bars of a horizon before its online weights count"
    )
    online_scale: float = Field(
        0.5, gt=0, le=100, description="profit of unit gross, sigma, at which the loss is 0 or 1"
    )
    online_half_life_sessions: float | None = Field(
        5.0,
        gt=0,
        description="sessions that halve the weight of past losses; none: never forget, as the "
        "regret bounds assume",
    )
    exploration: float = Field(0.05, gt=0, le=1, description="gamma of Exp3-IX")
    exp3_rate: float = Field(0.07, gt=0, le=0.07, description="eta of Exp3-IX")
    online_seed: int = Field(
        0, ge=0, le=2**31 - 1, description="root of the arms that Exp3-IX plays"
    )


class ArbitrationConfig(Section):
    """Which horizon is traded, if any; the impact coefficient is that of `costs`."""

    spread_factor: float = Field(
        1.0, ge=0, le=10, description="k1: quoted spreads paid for a way in and out"
    )
    timing_factor: float = Field(
        0.15, ge=0, le=10, description="k2: volatility while the order works, paid for timing"
    )
    execution_minutes: float | None = Field(
        1.0,
        gt=0,
        le=10000,
        description="how long an order works, session minutes; none: the whole horizon",
    )
    reserve_bps: float = Field(
        1.0, ge=0, le=1000, description="least alpha less cost that is traded, bps"
    )
    horizon_power: float = Field(
        0.5, ge=0, le=2, description="p of net / (minutes / 5)^p, by which horizons are ranked"
    )


class GatesConfig(Section):
    """What must hold beside the alpha before risk is taken."""

    barrier_gamma: float = Field(1.0, ge=0, le=10, description="power of 1 - p(adverse)")
    barrier_delta: float = Field(0.5, ge=0, le=10, description="power of 0.5 + 0.5 p(favourable)")
    barrier_floor: float = Field(0.2, ge=0, le=1, description="least gate that is not a block")
    barrier_block: float = Field(
        0.6, gt=0, le=1, description="p(adverse) above which no position is opened"
    )
    barrier_exit: float = Field(
        0.65, gt=0, le=1, description="p(adverse) above which a position is closed"
    )
    barrier_prior: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="probability that says nothing, at which the gate is 1; none: the mean of "
        "what was forecast before",
    )
    max_spread_bps: float = Field(
        12.0, gt=0, le=10000, description="widest quoted spread for new risk, bps of the mid"
    )
    max_quote_age_ms: float = Field(
        200.0, gt=0, description="oldest quote for new risk, milliseconds"
    )
    max_quote_age_aggregated_ms: float = Field(
        600.0, gt=0, description="the same for a feed that sends changes every 250 ms, such as IBKR"
    )
    max_quote_gap_bps: float = Field(
        1000.0, gt=0, le=100000, description="farthest mid from the bar's close for new risk, bps"
    )
    keep_without_skill: bool = Field(
        False,
        description="keep positions when the IC of every family is known and none is above 0; "
        "else they are closed",
    )

    @model_validator(mode="after")
    def _ordered_barriers(self) -> Self:
        if self.barrier_exit < self.barrier_block:
            raise ValueError(
                f"barrier_exit {self.barrier_exit} must be at least "
                f"barrier_block {self.barrier_block}"
            )
        return self


class SizingConfig(Section):
    """From alpha to shares."""

    signal_clip: float = Field(
        3.0, gt=0, le=100, description="alpha over volatility is cut to +- this"
    )
    name_weight: float = Field(
        0.05, gt=0, le=1, description="weight at the clip, and most of one name, fraction of NAV"
    )
    gross_target: float = Field(0.5, gt=0, le=10, description="gross exposure, fraction of NAV")
    gross_mode: Literal["fill", "limit"] = Field(
        "fill", description="scale weights to the gross target, or only down to it"
    )
    band_bps: float = Field(
        80.0, ge=0, le=10000, description="no-trade band about a target, bps of NAV"
    )
    band_share: float | None = Field(
        0.5,
        gt=0,
        le=1,
        description="the band is at most this share of the target, so that small targets of a "
        "wide universe trade; none: no limit",
    )


class RiskConfig(Section):
    """Limits, as fractions of NAV; reductions pass all of them."""

    daily_loss_limit: float = Field(
        0.02, gt=0, le=1, description="loss since the prior close that flattens for the session"
    )
    drawdown_limit: float = Field(
        0.10, gt=0, le=1, description="loss since the highest NAV that flattens until a person acts"
    )
    warn_share: float = Field(
        0.75, gt=0, le=1, description="share of either limit from which risk is only reduced"
    )
    max_name_weight: float = Field(0.2, gt=0, le=1, description="most of one name")
    max_gross: float = Field(0.5, gt=0, le=10, description="most gross exposure")
    max_net: float = Field(0.3, gt=0, le=10, description="most net exposure, long or short")
    max_order_usd: float = Field(
        250_000.0, gt=0, description="most value of one order that adds risk, USD"
    )
    max_orders_per_minute: int = Field(
        600,
        ge=1,
        le=100000,
        description="orders that add risk in any 60 seconds, a brake on what runs away: each name "
        "of a book of 500 once, and a fifth more; a wider book that may turn over at once needs "
        "as many as it has names",
    )


class ServingConfig(Section):
    """How the decision graph is served."""

    topology: Literal["graph", "fused"] = Field(
        "graph", description="a deployment for each stage, or all stages in one"
    )
    http_host: str = Field("127.0.0.1", description="address listened on")
    http_port: int = Field(8000, ge=1, le=65535, description="port listened on")
    reads_need_token: bool | None = Field(
        None, description="ask for the token to read, too; none: unless bound to loopback"
    )
    ssl_certificate: str | None = Field(
        None, description="file of the certificate for HTTPS, with ssl_key; none: HTTP"
    )
    ssl_key: str | None = Field(None, description="file of its private key")
    body_megabytes: float = Field(8.0, gt=0, le=1024, description="largest request body, MB")
    history_megabytes: float = Field(
        256.0, gt=0, le=4096, description="largest history sent to POST /v1/history, MB"
    )
    max_symbols: int = Field(5000, ge=1, le=100000, description="most symbols of a snapshot")
    request_seconds: float = Field(
        5.0, gt=0, le=600, description="a request not answered by then fails, seconds"
    )
    family_ms: float = Field(
        500.0, gt=0, le=600000, description="a family not done by then is left out, milliseconds"
    )
    family_replicas: int = Field(1, ge=1, le=100, description="replicas of each family")
    family_threads: int = Field(
        2, ge=1, le=64, description="threads among which a family divides a wide universe"
    )
    replica_cpus: float = Field(0.1, ge=0, le=64, description="cores reserved by each replica")
    warm_sessions: int = Field(
        12,
        ge=0,
        le=250,
        description="sessions of stored bars, unseen by the bundle, that a bundle's record is "
        "made from before it is served",
    )
    checkpoint_bars: int = Field(
        20, ge=1, le=10000, description="bars between checkpoints of what was learned"
    )
    watch_seconds: float = Field(
        1.0, gt=0, le=3600, description="how often the promoted bundle is looked at, seconds"
    )
    page_seconds: float = Field(2.0, gt=0, le=3600, description="how often the page asks, seconds")

    @model_validator(mode="after")
    def _whole_pair(self) -> "ServingConfig":
        if (self.ssl_certificate is None) != (self.ssl_key is None):
            raise ValueError("ssl_certificate and ssl_key: give both, or neither")
        return self


class TradingConfig(Section):
    """How decisions become orders, and when they do not."""

    broker: Literal["paper", "ibkr"] = Field(
        "paper", description="paper: fills made up here from quotes; ibkr: TWS or its gateway"
    )
    paper_cash_usd: float = Field(1e6, gt=0, description="cash a new paper account begins with")
    style: Literal["market", "limit", "adaptive"] = Field(
        "adaptive", description="adaptive: from the mid towards the far side, a step at a time"
    )
    order_seconds: float = Field(
        60.0, gt=0, le=86400, description="life of an order; it is cancelled then, seconds"
    )
    step_seconds: float = Field(
        5.0, gt=0, le=3600, description="between steps of an adaptive limit, seconds"
    )
    adaptive_steps: int = Field(
        4, ge=1, le=100, description="steps from the mid to the far side of the quote"
    )
    collar_bps: float = Field(
        50.0, gt=0, le=1000, description="furthest a limit goes from the mid at the decision, bps"
    )
    decision_seconds: float = Field(
        5.0, gt=0, le=600, description="from a bar's close to its orders; later adds no risk"
    )
    bar_wait_seconds: float = Field(
        2.0, ge=0, le=600, description="waited after a close for bars still missing"
    )
    most_missing: float = Field(
        0.2, ge=0, le=1, description="share of symbols without a bar from which no risk is added"
    )
    quote_seconds: float = Field(
        5.0, gt=0, le=3600, description="age of a quote from which nothing is sent on it, seconds"
    )
    most_age_minutes: int | None = Field(
        None, ge=1, description="a position older than this is closed, session minutes; none: never"
    )
    session_end: Literal["hold", "flatten"] = Field(
        "hold", description="what is done with positions at the end of a session"
    )
    quiet_minutes: float = Field(
        10.0, ge=0, le=390, description="before the close: no risk is added, minutes"
    )
    flatten_minutes: float = Field(
        5.0, ge=0, le=390, description="before the close: where session_end flattens, minutes"
    )
    reconcile_minutes: float = Field(
        5.0, gt=0, le=1440, description="between reconciliations with the broker, minutes"
    )
    most_working: int = Field(
        1000, ge=1, le=100000, description="orders at the broker at the same time"
    )
    most_orders_per_session: int = Field(
        20000, ge=1, description="orders that add risk in a session; then no more risk is added"
    )
    rejects_to_halt: int = Field(
        10, ge=1, description="refusals by the broker in a row that halt trading"
    )
    unknown_seconds: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="without a word on an order until the broker is asked; as long between the two "
        "complete answers without it after which it counts as never arrived",
    )
    messages_per_second: float = Field(
        45.0,
        gt=0,
        le=1000,
        description="most messages to the broker in a second, cancels first; TWS takes 50",
    )
    queue_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="an order that waits longer to be sent is given up, a cancel never; 500 orders "
        "take 14 s, and when sent each is checked and priced again by the quote of that moment; "
        "a tenth of a bar of 5 minutes and half of order_seconds",
    )
    what_if: bool = Field(False, description="ask for margins before each order that adds risk")
    unquoted_seconds: float = Field(
        30.0, gt=0, le=3600, description="an exit without a quote waits so long for one, seconds"
    )
    unquoted_exit: Literal["collar", "market", "wait"] = Field(
        "collar", description="then: a limit at the last price and the collar; wait: for a person"
    )
    cash_difference: float = Field(
        0.005, gt=0, le=1, description="cash that no trade explains, share of NAV; more pauses"
    )
    lease_seconds: float = Field(
        15.0, gt=0, le=3600, description="how long a trader that went silent keeps its place"
    )


class IbkrConfig(Section):
    """Where TWS or its gateway listens, and what it allows."""

    ibkr_host: str = Field("127.0.0.1", description="address; other than loopback must be armed")
    ibkr_port: int = Field(
        7497, ge=1, le=65535, description="7497 or 4002: paper; 7496 and 4001 are refused"
    )
    client_id: int = Field(17, ge=1, le=2**31 - 1, description="id of this client, always the same")
    account: str | None = Field(None, description="account to trade; none: the only one there is")
    arm_live: str | None = Field(
        None, description="number of an account with real money; none: paper accounts only"
    )
    connect_seconds: float = Field(15.0, gt=0, le=600, description="for a connection, seconds")
    ask_seconds: float = Field(10.0, gt=0, le=600, description="for an answer, seconds")
    heartbeat_seconds: float = Field(
        10.0, gt=0, le=600, description="between questions whether it is still there, seconds"
    )
    retry_seconds: float = Field(
        60.0, gt=0, le=3600, description="longest pause between attempts to connect, seconds"
    )
    market_data_lines: int = Field(100, ge=1, le=10000, description="lines the account has")
    bar_source: Literal["realtime", "history"] = Field(
        "realtime", description="bars from five-second bars, or from history kept up to date"
    )
    delayed_data: bool = Field(
        False, description="take delayed quotes where there are no others; shown, never traded on"
    )
    history_requests: int = Field(
        60, ge=1, le=1000, description="requests for history in any ten minutes"
    )


class AlertsConfig(Section):
    """Who is told, of what, and how often."""

    alert_console: bool = Field(True, description="to standard error")
    alert_level: Literal["info", "warning", "critical"] = Field(
        "warning", description="least severity that is sent on"
    )
    alert_webhook: str | None = Field(None, description="URL that is sent a JSON document")
    alert_email: str | None = Field(None, description="address that is sent a mail")
    smtp_host: str = Field("localhost", description="mail server")
    smtp_port: int = Field(587, ge=1, le=65535, description="its port")
    smtp_user: str | None = Field(
        None, description="its user; the password is in DPA_SMTP_PASSWORD"
    )
    smtp_from: str = Field("dpa@localhost", description="sender of mails")
    smtp_tls: bool = Field(True, description="refuse to talk to it without encryption")
    alerts_per_minute: int = Field(
        6, ge=1, le=1000, description="of one kind and target; critical ones always pass"
    )


class LoggingConfig(Section):
    """Structured logs: one JSON object a line, one file a process."""

    log_files: bool = Field(True, description="write them; what is printed stays as it is")
    log_directory: str | None = Field(
        None, description="where they lie; none: the folder logs of the storage"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level that is written"
    )
    log_file_bytes: int = Field(
        10_000_000, ge=10_000, le=10**9, description="size at which a file is turned over, bytes"
    )
    log_total_bytes: int = Field(
        200_000_000,
        ge=10_000,
        le=10**12,
        description="size of all files in the folder beyond which the oldest go, bytes",
    )


class Settings(Frozen):
    """The whole tree."""

    data: DataConfig = DataConfig()
    model: ClusterConfig = ClusterConfig()
    training: TrainingConfig = TrainingConfig()
    walk_forward: WalkForwardConfig = WalkForwardConfig()
    costs: CostConfig = CostConfig()
    horizons: HorizonsConfig = HorizonsConfig()
    families: FamiliesConfig = FamiliesConfig()
    stacking: StackingConfig = StackingConfig()
    standardise: StandardiseConfig = StandardiseConfig()
    confidence: ConfidenceConfig = ConfidenceConfig()
    blend: BlendConfig = BlendConfig()
    online: OnlineConfig = OnlineConfig()
    arbitration: ArbitrationConfig = ArbitrationConfig()
    gates: GatesConfig = GatesConfig()
    sizing: SizingConfig = SizingConfig()
    risk: RiskConfig = RiskConfig()
    serving: ServingConfig = ServingConfig()
    trading: TradingConfig = TradingConfig()
    ibkr: IbkrConfig = IbkrConfig()
    alerts: AlertsConfig = AlertsConfig()
    logging: LoggingConfig = LoggingConfig()


GRID_SECTIONS = ("data", "model", "training", "walk_forward", "costs", "logging")
HORIZON_SECTIONS = (
    "data",
    "horizons",
    "families",
    "stacking",
    "model",
    "training",
    "walk_forward",
    "logging",
)
DECISION_SECTIONS = (
    "standardise",
    "confidence",
    "blend",
    "online",
    "arbitration",
    "costs",
    "gates",
    "sizing",
    "risk",
)
TRADING_SECTIONS = (*DECISION_SECTIONS, "serving", "logging", "trading", "ibkr", "alerts")


def _one_line(error: ValidationError, origin: str) -> ConfigError:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "settings"
    if first["type"] == "extra_forbidden":
        return ConfigError(
            f"{origin}: unknown key {field!r}", "see 'dpa config schema' for the keys there are"
        )
    seen = first.get("input")
    shown = "" if isinstance(seen, (dict, BaseModel)) else f" (got {seen!r})"
    return ConfigError(f"{origin}: {field}: {first['msg']}{shown}", "correct that value")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping from `path`; a :class:`ConfigError` that names the file otherwise."""
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror})", "check the path") from e
    except UnicodeDecodeError as e:
        raise ConfigError(
            f"{path}: is not UTF-8 text (byte {e.start + 1})", "save it as UTF-8, or check the path"
        ) from e
    except (yaml.YAMLError, ValueError) as e:  # ValueError: a date such as 2008-13-01
        where = getattr(e, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        raise ConfigError(f"{path}:{line} is not valid YAML", "mend that line") from e
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: holds a {type(loaded).__name__}", "it must be a mapping")
    return loaded


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge of mappings; later layers win."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            nested = isinstance(value, Mapping) and isinstance(below, Mapping)
            merged[key] = merge(below, value) if nested else value  # type: ignore[arg-type]
    return merged


def environment_layer(environ: Mapping[str, str]) -> dict[str, Any]:
    """Settings from variables such as ``DPA__MODEL__WINDOW=60``; values are read as YAML."""
    layer: dict[str, Any] = {}
    for name, text in environ.items():
        if name.startswith(ENV_PREFIX):
            *sections, key = name.removeprefix(ENV_PREFIX).lower().split("__")
            try:
                value: Any = yaml.safe_load(text)
            except (yaml.YAMLError, ValueError) as e:
                raise ConfigError(f"environment: {name}={text!r} is not YAML", "mend it") from e
            for section in [key, *reversed(sections)]:
                value = {section: value}
            layer = merge(layer, value)
    return layer


def load_settings(
    path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Settings from defaults < YAML file < environment < `overrides`.

    Parameters
    ----------
    path : str or Path, optional
        YAML file with any part of the tree.
    overrides : mapping, optional
        Nested mapping of what the command line gave, ``{"model": {"window": 60}}``.
    environ : mapping, optional
        Environment to read ``DPA__SECTION__FIELD`` from; the process environment when absent.

    Raises
    ------
    ConfigError
        Naming the layer, the field, the value seen and the cure.
    """
    file_layer = read_yaml(path) if path is not None else {}
    env_layer = environment_layer(os.environ if environ is None else environ)
    return settings_from_layers(
        (str(path), file_layer), ("environment", env_layer), ("command line", overrides or {})
    )


def settings_from_layers(*layers: tuple[str, Mapping[str, Any]]) -> Settings:
    """Settings from (origin, nested mapping) pairs; later ones win, errors name the origin."""
    merged: dict[str, Any] = {}
    settings = Settings()
    for origin, layer in layers:
        merged = merge(merged, layer)
        try:
            settings = Settings.model_validate(merged)
        except ValidationError as e:
            raise _one_line(e, origin) from e
    return settings
