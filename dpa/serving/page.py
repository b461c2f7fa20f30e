"""The page at ``/``: what the graph thinks now, in one file without outside resources."""

import base64
import hashlib
import json
import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from dpa.config import Settings

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def page_html(settings: Settings) -> str:
    """The page: HTML with its own style and script.

    It asks ``/v1/decisions/latest``, ``/v1/bundle`` and ``/readyz`` of where it came from every
    ``serving.page_seconds``; numbers that are no longer heard of are greyed.

    Parameters
    ----------
    settings : Settings
        Shown beside the numbers: ``serving.page_seconds``, ``arbitration.reserve_bps`` and the
        limits of spread and quote age of ``gates``.
    """
    gates = settings.gates
    shown = {
        "page_seconds": settings.serving.page_seconds,
        "reserve_bps": settings.arbitration.reserve_bps,
        "max_spread_bps": gates.max_spread_bps,
        "max_quote_age_ms": {
            "direct": gates.max_quote_age_ms,
            "aggregated": gates.max_quote_age_aggregated_ms,
        },
    }
    pages = Environment(
        loader=PackageLoader("dpa.serving", "."), autoescape=True, undefined=StrictUndefined
    )
    return pages.get_template("page.html.j2").render(settings=json.dumps(shown))


@cache
def page_policy(page: str) -> str:
    """The Content-Security-Policy of a page: its own inline script and style, its own server.

    Parameters
    ----------
    page : str
        As :func:`page_html` gives it.
    """
    allowed = {
        kind: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for found, text in _INLINE.findall(page)
            if found == kind
        )
        or "'none'"
        for kind in ("script", "style")
    }
    return (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
