"""Charts as one SVG file that stands alone, as in a README: legible on light pages and on dark ones."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from convlstm.core.files import write_atomically
from convlstm.report.markup import Html, joined, tag
from convlstm.report.plots import HEIGHT, KINDS, WIDTH, Curve, drawing

MARGIN, GAP, SPACE, TITLE = 12, 24, 5, 22  # pixels; SPACE is above a legend, TITLE a title's height
ITEM, LINE, PER_ROW = 113, 17, 3  # width and height of a legend's items, how many stand side by side


class Panel(NamedTuple):
    """A chart of the picture."""

    title: str
    curves: Sequence[Curve]
    x_label: str
    logarithmic: bool = False


def write_svg(path: Path, description: str, panels: Sequence[Panel], columns: int) -> None:
    """Write charts, each with its title above and the names of its lines below, row by row.

    The page's own style is in the file. Its background is painted, since a picture in a page is told whether
    the system is dark, and not whether the page is.

    Args:
        path: of the file.
        description: what is shown, for those who cannot see it.
        panels: one or more.
        columns: how many stand side by side.
    """
    rows = -(-len(panels) // columns)
    items = max(len(panel.curves) for panel in panels)
    high = TITLE + HEIGHT + SPACE + LINE * -(-items // PER_ROW)
    width = 2 * MARGIN + columns * (WIDTH + GAP) - GAP
    height = 2 * MARGIN + rows * (high + GAP) - GAP
    drawn = []
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        place = f"translate({MARGIN + column * (WIDTH + GAP)} {MARGIN + row * (high + GAP)})"
        drawn.append(tag("g", _panel(panel), transform=place))
    style = resources.files("convlstm.report").joinpath("style.css").read_text(encoding="utf-8")
    picture = tag(
        "svg",
        tag("title", description),
        tag("style", Html(style)),
        tag("rect", width=width, height=height, rx=8, style="fill: var(--page)"),
        *drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        class_="chart",
        role="img",
    )
    write_atomically(path, lambda temporary: temporary.write_text(picture + "\n", encoding="utf-8"))


def _panel(panel: Panel) -> Html:
    """Return a chart with title and legend, its upper left corner at (0, 0)."""
    chart = drawing(panel.curves, panel.x_label, logarithmic=panel.logarithmic)
    nothing = tag("text", "No finite values.", x=WIDTH / 2, y=HEIGHT / 2, text_anchor="middle")
    names = []
    for number, curve in enumerate(panel.curves):
        row, column = divmod(number, PER_ROW)
        x, y = column * ITEM, TITLE + HEIGHT + SPACE + row * LINE + LINE / 2
        names.append(tag("path", d=f"M{x} {y}h26", class_=f"line s{curve.kind % KINDS}"))
        names.append(tag("text", curve.name, x=x + 31, y=y + 4))
    title = tag("text", panel.title, x=0, y=13, class_="axis", style="font-weight: 600")
    return joined(title, tag("g", chart or nothing, transform=f"translate(0 {TITLE})"), *names)
