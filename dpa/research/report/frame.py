"""The frame of every report: one HTML file that holds its pictures and the code to draw them."""

from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

FRAME = "dpa.research.report"  # holds base.html.j2 and parts.html.j2


@dataclass(frozen=True)
class Picture:
    """A figure with its title, and a sentence that says what to look at."""

    key: str
    title: str
    caption: str
    figure: go.Figure

    @property
    def json(self) -> Markup:
        """The figure for a script element."""
        return Markup(str(self.figure.to_json()).replace("</", "<\\/"))

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.figure.layout.height)


@dataclass(frozen=True)
class Tile:
    """A number at the head of the page."""

    label: str
    value: str
    note: str


def render_page(package: str, **content: Any) -> str:
    """``page.html.j2`` of `package`, which extends ``base.html.j2``, filled with `content`."""
    pages = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader(FRAME, ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template("page.html.j2").render(plotly=Markup(get_plotlyjs()), **content)
