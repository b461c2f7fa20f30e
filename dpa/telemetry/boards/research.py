"""Research: how far runs are, what they find, what they cost."""

from typing import Final

from dpa.telemetry import catalogue as c
from dpa.telemetry.boards.shared import CLUSTER, line, stat
from dpa.telemetry.catalogue import Metric
from dpa.telemetry.panels import (
    RED,
    YELLOW,
    Board,
    Query,
    Row,
    mean,
    newest,
    total,
)

OF_RUN: Final = '{run=~"$run"}'


def _by_trial(metric: Metric) -> str:
    return newest(metric, "run", "trial", where=OF_RUN)


RESEARCH: Final = Board(
    "research",
    "dpa research",
    "Runs of grids and predictors: how far they are, what they find, what they cost.",
    (
        Row(
            "Trials",
            (
                stat(
                    "Folds done",
                    "Folds trained and tested by all trials of the runs chosen.",
                    f"sum({_by_trial(c.TRIAL_FOLDS_DONE)})",
                ),
                stat(
                    "Trials done",
                    "Trials that ended well since the nodes were started.",
                    total(c.TRIALS_ENDED, where='{outcome="done"}', zero=True),
                ),
                stat(
                    "Trials failed",
                    "Trials that ended with an error; it is a row of the report, and in error.txt "
                    "of the trial.",
                    total(c.TRIALS_ENDED, where='{outcome="failed"}', zero=True),
                    steps=((1, RED),),
                ),
                stat(
                    "Restarts",
                    "Times a trial went on where a process that died had come to. Many mean that "
                    "nodes are lost or memory is short.",
                    total(c.TRIAL_RESTARTS, zero=True),
                    steps=((1, YELLOW), (10, RED)),
                ),
                stat(
                    "Highest Sharpe so far",
                    "Of all trials, out of sample, after costs. The highest of many is high by "
                    "chance: the report deflates it.",
                    f"max({_by_trial(c.TRIAL_NET_SHARPE)})",
                    decimals=2,
                ),
                stat(
                    "Seconds a fold",
                    "Mean time to train and test a fold.",
                    mean(c.FOLD_SECONDS),
                    "s",
                    decimals=2,
                ),
                line(
                    "Folds done by trial",
                    "A line that stops rising is a trial that waits for a core, or has died.",
                    Query(
                        newest(c.TRIAL_FOLDS_DONE, "run", "trial", where=OF_RUN),
                        "{{run}} {{trial}}",
                    ),
                    width=12,
                    low=0,
                ),
                line(
                    "Sharpe so far by trial",
                    "Running out-of-sample Sharpe ratio after costs, annualised. Early folds move "
                    "it a lot.",
                    Query(
                        newest(c.TRIAL_NET_SHARPE, "run", "trial", where=OF_RUN),
                        "{{run}} {{trial}}",
                    ),
                    width=12,
                    decimals=2,
                ),
            ),
        ),
        Row(
            "Data",
            (
                line(
                    "Bars read",
                    "Bytes of bars put into the object store. They are read once for a run, and "
                    "again when the reader dies.",
                    Query(total(c.DATA_READ_BYTES), "bytes"),
                    unit="bytes",
                ),
                line(
                    "Shard files read",
                    "Files of histories that were read to the end.",
                    Query(total(c.SHARDS_READ), "files"),
                ),
                line(
                    "Seconds a segment",
                    "Mean time to read, cut and store about 8 MiB of bars.",
                    Query(mean(c.DATA_READ_SECONDS), "mean"),
                    unit="s",
                ),
            ),
        ),
        Row(
            "Predictors",
            (
                line(
                    "Fits done",
                    "Fits of families on folds that ended well.",
                    Query(
                        total(c.FITS_DONE, "family", where='{outcome="done"}'),
                        "{{family}}",
                    ),
                ),
                line(
                    "Fits failed",
                    "Fits that ended with an error; the run goes on without them and says so.",
                    Query(
                        total(c.FITS_DONE, where='{outcome="failed"}', zero=True),
                        "failed",
                    ),
                    steps=((1, RED),),
                ),
                line(
                    "Seconds a fit",
                    "Mean time to fit a family on a fold and forecast what follows.",
                    Query(mean(c.FIT_SECONDS, "family"), "{{family}}"),
                    unit="s",
                ),
            ),
        ),
        CLUSTER,
    ),
    run=True,
)
