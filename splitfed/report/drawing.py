"""Drawing as SVG that takes its colours from the page, so that plots suit light and dark.

matplotlib is told marker colours that no plot would use by chance; they are replaced by the
page's CSS variables afterwards. Text stays text. Nothing refers to anything outside.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIABLES = {
    "#010203": "var(--ink)",
    "#010204": "var(--muted)",
    "#010205": "var(--line)",
    "#010206": "var(--page)",
    "#010207": "var(--bad)",
    **{f"#0102{0x10 + i:02x}": f"var(--series-{i + 1})" for i in range(6)},
}
INK, MUTED, LINE, PAGE, BAD = list(VARIABLES)[:5]
SERIES = list(VARIABLES)[5:]
"""Colours for lines; more parties begin again with another line style."""
WIDTH = 8.6
"""Inches; a full-width plot's letters then look as large as the page's notes."""
STYLES = ("-", "--", ":", "-.")

_SETTINGS: dict[Any, Any] = {  # keys are checked by matplotlib itself
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a name is a $
    "font.family": ["DejaVu Sans"],  # ships with matplotlib; the page's font replaces it
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
}


def svg(draw: Callable[[Figure], None], inches: tuple[float, float], salt: str, label: str) -> str:
    """What ``draw`` draws, as an ``<svg>`` element for a page."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # No pyplot: no global figures, no display, and any thread may draw. The salt makes ids
    # repeatable, and different for different plots on one page.
    with matplotlib.rc_context(_SETTINGS | {"svg.hashsalt": f"splitfed {salt}"}):
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        out = StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return _for_page(out.getvalue(), salt, label)


def _for_page(svg: str, salt: str, label: str) -> str:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    # one page holds several plots: their ids must not meet
    body = re.sub(r'\bid="([^"]+)"', rf'id="{salt}-\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{salt}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{salt}-\1)", body)
    body = body.replace("'DejaVu Sans'", "var(--font)")
    for marker, variable in VARIABLES.items():
        body = body.replace(marker, variable)
    opening = re.match(r"<svg[^>]*>", body)
    assert opening is not None
    view = re.search(r'viewBox="[^"]*"', opening[0])
    assert view is not None
    head = f'<svg {view[0]} role="img" aria-label="{label}" class="plot">'
    return head + body[opening.end() :]
