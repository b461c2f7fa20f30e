"""``dpa simulate bars`` and ``dpa sim tws``."""

import argparse
import json
from pathlib import Path
from typing import Any

import dpa
from dpa.errors import ConfigError, DataError
from dpa.market.interval_specs import (
    DAILY_HORIZONS,
    INTRADAY_HORIZONS,
    Horizon,
    IntervalSpec,
    parse_horizon,
)
from dpa.market.shard_files import check_target, write_shards
from dpa.options import Option
from dpa.simulation.planted_bars import BarTruth, IntradayMarket, implied_ic, simulate_bars
from dpa.simulation.tws.commands import add_tws_command

TRUTH = "truth.json"
SHOWN_AT = {
    "fast": "close location (2C - H - L) / (H - L)",
    "medium": "log volume",
    "slow": "log relative range log((H - L) / C)",
    "residual": "log price against the mean of the cluster",
}
_EXAMPLES = """examples:
  dpa simulate bars --out planted --sessions 120 --seed 0
  dpa simulate bars --out planted --clusters 3 --names-per-cluster 5 --interval 1m
  dpa simulate bars --out gaps --missing 0.02 --late-listings 0.2 --delistings 0.1 --force
  dpa sim tws --planted 7 --stepped
"""


def add_simulate_commands(commands: Any) -> None:
    """Add ``simulate`` and its subcommand to `commands`, the subparsers of the ``dpa`` parser."""
    simulate = commands.add_parser(
        "simulate",
        aliases=["sim"],
        help="invent markets whose truth is known; a gateway that speaks the protocol of TWS",
        description="Invent markets whose truth is known, and trade them through a gateway.",
        epilog=_EXAMPLES,
    )
    actions = simulate.add_subparsers(title="commands", required=True, metavar="COMMAND")
    words = "write an invented market of bars as shards, and what was planted in it"
    bars = actions.add_parser(
        "bars",
        help=words,
        description=words[0].upper() + words[1:] + f" as {TRUTH} beside them.",
        epilog=_EXAMPLES,
    )
    bars.usage = "%(prog)s [options] --out DIR"
    bars.set_defaults(run=run_bars)
    bars.add_argument("--out", required=True, metavar="DIR", help="directory to make")
    bars.add_argument("--seed", type=int, default=0, help="root of every random number [0]")
    bars.add_argument("--force", action="store_true", help="replace an earlier directory of shards")
    market = bars.add_argument_group("market")
    for option in _options():
        limits = f"; {option.bounds}" if option.bounds else ""
        market.add_argument(
            *_flags(option),
            dest=option.name,
            metavar="VALUE",
            help=f"{option.info.description} [{option.kind}{limits}; default {option.default}]",
        )
    add_tws_command(actions)


def _options() -> list[Option]:
    return [Option("market", name, info) for name, info in IntradayMarket.model_fields.items()]


def _flags(option: Option) -> tuple[str, ...]:
    """``--sessions`` besides ``--n-sessions``."""
    short = option.flag.replace("--n-", "--")
    return (option.flag,) if short == option.flag else (short, option.flag)


def _market(arguments: argparse.Namespace) -> IntradayMarket:
    given = {option: getattr(arguments, option.name) for option in _options()}
    return IntradayMarket(
        **{
            option.name: option.parse(text, _flags(option)[0])
            for option, text in given.items()
            if text is not None
        }
    )


def run_bars(arguments: argparse.Namespace) -> int:
    """Write an invented market; see ``dpa simulate bars --help``."""
    if arguments.seed < 0:
        raise ConfigError(f"--seed: {arguments.seed}", "give 0 or more")
    out = Path(arguments.out)
    check_target(out, arguments.force)
    planted = simulate_bars(_market(arguments), arguments.seed)
    panel = planted.panel
    manifest = write_shards(panel, out, force=arguments.force)
    described = describe_truth(planted.truth, panel.names, arguments.seed)
    try:
        text = json.dumps(described, indent=1) + "\n"
        (out / TRUTH).write_text(text, encoding="utf-8")
    except OSError as e:
        raise DataError(f"{out / TRUTH}: cannot be written ({e.strerror})") from e
    print(
        f"{out}: {panel.n_assets} names, {manifest.n_bars:,} bars of {manifest.interval} "
        f"({manifest.calendar}), {manifest.files[0].first} to {manifest.files[-1].last}"
    )
    print("mean rank correlation of the true forecasts with the return")
    rows = described["implied_ic"]
    print(f"{'horizon':<10}" + "".join(f"{name:>10}" for name in next(iter(rows.values()), {})))
    for label, ics in rows.items():
        print(f"{label:<10}" + "".join(f"{_shown(ic):>10}" for ic in ics.values()))
    return 0


def _shown(ic: float | None) -> str:
    return "unknown" if ic is None else f"{ic:.3f}"


def usual_horizons(spec: IntervalSpec) -> tuple[Horizon, ...]:
    """The usual horizons that are whole bars of the interval."""
    found = []
    for label in DAILY_HORIZONS if spec.interval.is_daily else INTRADAY_HORIZONS:
        try:
            found.append(parse_horizon(label, spec))
        except ConfigError:
            continue
    return tuple(found)


def describe_truth(truth: BarTruth, names: tuple[str, ...], seed: int) -> dict[str, Any]:
    """What was planted, for JSON.

    Parameters
    ----------
    truth : BarTruth
    names : tuple of str, length n_assets
    seed : int
        What the market was drawn with.

    Returns
    -------
    dict
        ``config`` and ``seed`` (which draw the same market again), ``clusters`` (name to true
        cluster), ``signals`` (where each shows, half-life in session minutes, payoff in bps),
        and ``implied_ic`` (horizon to forecast to IC, None where unknown; see
        :func:`dpa.simulation.planted_bars.implied_ic`).
    """
    config = truth.config
    minutes = config.spec.bar_minutes
    return {
        "dpa": dpa.__version__,
        "seed": seed,
        "config": config.model_dump(mode="json"),
        "clusters": dict(zip(names, truth.labels.tolist(), strict=True)),
        "signals": {
            name: {
                "shown_at": SHOWN_AT[name],
                "half_life_minutes": round(signal.half_life * minutes, 9),
                "payoff_bps": signal.payoff,
            }
            for name, signal in config.signals.items()
        },
        "implied_ic": {
            horizon.label: {
                name: None if ic != ic else round(ic, 6)
                for name, ic in implied_ic(config, horizon.bars).items()
            }
            for horizon in usual_horizons(config.spec)
        },
    }
