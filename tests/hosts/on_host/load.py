"""Steady requests for decisions, one bar after the other, on a host: every attempt on record.

    python load.py URL STORAGE BARS FIRST_ROW BARS_PER_SECOND RECORD

A bar that fails is asked for again, as an engine would; a line of JSON an attempt. Ends when it
is killed, or when the bars are over.
"""

import json
import sys
import time
from pathlib import Path

from dpa.config import DataConfig
from dpa.errors import DpaError
from dpa.market.last_bars import last_bars
from dpa.serving.client import Client, read_token
from dpa.serving.replay import Bars, NaiveAccount, target_shares

NAV_USD, HALF_SPREAD_BPS = 1e6, 0.1
SECONDS, PAUSE = 10.0, 0.1  # an attempt may take; between attempts


def main() -> None:
    url, storage, data, first, pace, record = sys.argv[1:]
    panel = last_bars(DataConfig(path=data, interval="5m"), 10**9)
    bars = Bars(panel, HALF_SPREAD_BPS)
    account = NaiveAccount("default", panel.n_assets, NAV_USD, HALF_SPREAD_BPS)
    token = read_token(Path(storage) / "serving" / "token")
    began = time.monotonic()
    with (
        Client(url, token, timeout_seconds=SECONDS, retry_seconds=0.0) as client,
        open(record, "w", buffering=1) as out,
    ):
        for number, row in enumerate(range(int(first), panel.n_bars)):
            time.sleep(max(began + number / float(pace) - time.monotonic(), 0.0))
            account.close_bar(int(bars.session[row]), panel.prices[row])
            request = bars.request(row, account)
            while True:
                sent, error, left_out = time.time(), "", 0
                try:
                    decision = client.decide(request, trace=False)
                except DpaError as e:
                    error = str(e)
                else:
                    account.want(target_shares(decision, panel.names))
                    left_out = len(decision["left_out"])
                said = {"row": row, "sent": sent, "seconds": time.time() - sent, "error": error,
                        "left_out": left_out}  # fmt: skip
                out.write(json.dumps(said) + "\n")
                if not error:
                    break
                time.sleep(PAUSE)


if __name__ == "__main__":
    main()
