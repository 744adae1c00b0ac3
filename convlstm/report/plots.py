"""Charts of curves: where their lines, marks and ticks lie, which report.html draws as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

KINDS = 7  # number of kinds of line that the style tells apart

# In units that are pixels of the screen at the width that a chart has on a phone, so that type stays legible.
AREA = {"width": 350, "height": 210, "left": 48, "right": 340, "top": 10, "bottom": 174}
MAX_MARKS = 60  # per curve
DIGIT = 7.5  # width of a digit, at most
TICKS = 5  # number of ticks on an axis, about


class Curve(NamedTuple):
    """A line in a chart; points whose value is not finite are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: int = 0
    """Which of the `KINDS` of line it is drawn as."""
    low: Sequence[float] = ()
    """Lower ends of a band around the line, one for each point, or none; `high` are the upper ends."""
    high: Sequence[float] = ()


class Line(NamedTuple):
    """A curve as it is drawn."""

    kind: int
    path: str
    """SVG path of the line; "" for a single point."""
    band: str
    """Outline of the band, or ""."""
    marks: list[tuple[float, float, str]]
    """Points that show their value under the mouse: x, y and the words."""
    dots: bool
    """Whether the marks are visible."""


@dataclass
class Chart:
    """A chart as it is drawn: without lines if no value is finite."""

    title: str
    note: str
    x_label: str
    words: str
    """The chart for those who do not see it."""
    y_ticks: Sequence[tuple[float, str]] = ()
    x_ticks: Sequence[tuple[float, float, str]] = ()
    """Place of the tick, place of the label, and the label."""
    lines: Sequence[Line] = ()


def chart(
    title: str,
    curves: Sequence[Curve],
    x_label: str,
    note: str = "",
    *,
    start: float | None = None,
    logarithmic: bool = False,
) -> Chart:
    """Lay out curves on axes with labeled ticks.

    Args:
        title: the quantity, with its unit.
        curves: one or more.
        x_label: the quantity on the horizontal axis.
        note: beside the title, such as which direction is better. Default: none.
        start: where the horizontal axis begins at the latest. Default: at the first point.
        logarithmic: whether the vertical axis is; ignored where a value is not above 0. Default: False.
    """
    found = [_finite(curve) for curve in curves]
    layout = Chart(title, note, x_label, f"{title}: {'; '.join(map(_in_words, found))}")
    xs = [x for curve in found for x in curve.x]
    ys = [y for curve in found for y in (*curve.y, *curve.low, *curve.high)]
    if not ys:
        return layout
    logarithmic = logarithmic and min(ys) > 0
    y_ticks = _log_ticks(min(ys), max(ys)) if logarithmic else _ticks(min(ys), max(ys))
    low, high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))
    first, last = min(xs if start is None else [start, *xs]), max(xs)
    x_ticks = [x for x in _ticks(first, last, whole=True) if first <= x <= last]
    first, last = (first, last) if first < last else (first - 1, last + 1)
    scale = math.log if logarithmic else float

    def across(x: float) -> float:
        return round(AREA["left"] + (x - first) / (last - first) * (AREA["right"] - AREA["left"]), 1)

    def down(y: float) -> float:
        share = (scale(y) - scale(low)) / (scale(high) - scale(low))
        return round(AREA["bottom"] - share * (AREA["bottom"] - AREA["top"]), 1)

    layout.y_ticks = [(down(y), label) for y, label in zip(y_ticks, _distinct(y_ticks), strict=True)]
    layout.x_ticks = [
        (across(x), min(across(x), AREA["width"] - DIGIT / 2 * len(label)), label)
        for x, label in zip(x_ticks, _distinct(x_ticks), strict=True)
    ]

    def path(xs: Sequence[float], ys: Sequence[float]) -> str:
        return "L".join(f"{across(x)} {down(y)}" for x, y in zip(xs, ys, strict=True))

    layout.lines = []
    for curve in reversed(found):  # the first lies on top
        step = math.ceil(len(curve.x) / MAX_MARKS) or 1
        points = list(zip(curve.x, curve.y, strict=True))[::step]
        marks = [(across(x), down(y), f"{curve.name}, {number(x)}: {number(y, 4)}") for x, y in points]
        band = path([*curve.x, *curve.x[::-1]], [*curve.low, *curve.high[::-1]]) if curve.low else ""
        line = path(curve.x, curve.y) if len(curve.x) > 1 else ""
        layout.lines.append(Line(curve.kind % KINDS, line, line and band, marks, step == 1))
    return layout


def number(value: float, digits: int = 3) -> str:
    """Return a number with about so many significant digits, as one writes it: 1,234 and 0.00012."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-4 <= abs(value) < 1e7:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
        mantissa, exponent = f"{value:,.{places}f}", ""
    else:
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        exponent = f"e{int(power)}"
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return (mantissa + exponent).replace("-", "\N{MINUS SIGN}")


def _finite(curve: Curve) -> Curve:
    """Return a curve of those points whose values, and those of the band, are finite."""
    rows = zip(curve.x, curve.y, curve.low or curve.y, curve.high or curve.y, strict=True)
    kept = [row for row in rows if all(map(math.isfinite, row))]
    x, y, low, high = ([row[n] for row in kept] for n in range(4))
    return Curve(curve.name, x, y, curve.kind, *((low, high) if curve.low else ()))


def _distinct(ticks: Sequence[float]) -> list[str]:
    """Return the numbers with as many digits as it takes to tell them apart, at least 3."""
    labels: list[str] = []
    for digits in range(3, 18):
        labels = [number(tick, digits) for tick in ticks]
        if len(set(labels)) == len(ticks):
            break
    return labels


def _in_words(curve: Curve) -> str:
    if not curve.y:
        return f"{curve.name} has no finite values"
    return f"{curve.name} from {number(curve.y[0])} to {number(curve.y[-1])}"


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Return round numbers, evenly spaced, the first at most low and the last at least high."""
    if low == high:
        spread = abs(low) / 2 or 1
        low, high = low - spread, high + spread
    rough = (high - low) / TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    step = max(1, round(step)) if whole else step
    start, stop = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(start, stop + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers, about evenly spaced on a logarithmic axis, that enclose low and high."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        every = sorted(10.0**power * m for power in powers for m in steps)
        below = [y for y in every if y <= low * 1.0001][-1:] or every[:1]
        above = [y for y in every if y >= high * 0.9999][:1] or every[-1:]
        ticks = [y for y in every if below[0] <= y <= above[0]]
        if len(ticks) <= TICKS + 2:
            break
    if len(ticks) == 1:
        ticks = [ticks[0] / 2, ticks[0], ticks[0] * 2]
    return ticks[:: math.ceil(len(ticks) / (TICKS + 2))]
