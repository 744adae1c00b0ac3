"""Curves as inline SVG. Colours, dashes and type belong to the page's style: the classes s0, s1, ..."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from convlstm.report.markup import Html, joined, tag

__all__ = ["HEIGHT", "KINDS", "WIDTH", "Curve", "chart", "drawing", "legend", "number"]

KINDS = 7  # of lines that the style tells apart

# In units that are pixels of the screen at the width that a chart has on a phone, so that type stays legible.
WIDTH, HEIGHT = 350, 210
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 10, 36
MOST_POINTS = 60  # of a curve that are marked one by one
DIGIT = 7.5  # width of one, at most
TICKS = 5  # on an axis, about


class Curve(NamedTuple):
    """A line in a chart; points whose value is no finite number are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: int = 0
    """Which of the `KINDS` of line it is drawn as."""
    low: Sequence[float] = ()
    """Lower ends of a band around the line, one for each point, or none; `high` the upper ones."""
    high: Sequence[float] = ()


def chart(
    title: str,
    curves: Sequence[Curve],
    x_label: str,
    note: str = "",
    *,
    start: float | None = None,
    logarithmic: bool = False,
) -> Html:
    """Return a figure: a caption, axes with labelled ticks, and the curves, each point with its value.

    Args:
        title: the quantity, with its unit.
        curves: one or more.
        x_label: what runs along the horizontal axis.
        note: beside the title, such as which direction is better.
        start: where the horizontal axis begins at the latest; None (default) for the first point.
        logarithmic: whether the vertical axis is; it is linear in any case where a value is not above 0.
    """
    caption = tag("figcaption", tag("b", title), *([" ", tag("small", note)] if note else []))
    parts = drawing(curves, x_label, start=start, logarithmic=logarithmic)
    if parts is None:
        return tag("figure", caption, tag("p", "No finite values."), class_="chart")
    said = f"{title}: {'; '.join(_in_words(_finite(curve)) for curve in curves)}"
    picture = tag("svg", parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=said)
    return tag("figure", caption, picture, class_="chart")


def drawing(
    curves: Sequence[Curve], x_label: str, *, start: float | None = None, logarithmic: bool = False
) -> Html | None:
    """Return what is inside a chart's picture, `WIDTH` by `HEIGHT`: axes with labelled ticks, and curves.

    Args:
        curves: one or more.
        x_label: as of `chart`.
        start: as of `chart`.
        logarithmic: as of `chart`.

    Returns:
        Elements of SVG; None where no value is finite.
    """
    found = [_finite(curve) for curve in curves]
    xs = [x for curve in found for x in curve.x]
    ys = [y for curve in found for y in (*curve.y, *curve.low, *curve.high)]
    if not ys:
        return None
    logarithmic = logarithmic and min(ys) > 0
    y_ticks = _log_ticks(min(ys), max(ys)) if logarithmic else _ticks(min(ys), max(ys))
    low, high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))
    first, last = min(xs if start is None else [start, *xs]), max(xs)
    x_ticks = [x for x in _ticks(first, last, whole=True) if first <= x <= last]
    first, last = (first, last) if first < last else (first - 1, last + 1)
    scale = math.log if logarithmic else float

    def across(x: float) -> float:
        return LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        share = (scale(y) - scale(low)) / (scale(high) - scale(low))
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y, label in zip(y_ticks, _distinct(y_ticks), strict=True):
        parts.append(tag("path", d=f"M{LEFT} {down(y):.1f}H{WIDTH - RIGHT}", class_="grid"))
        parts.append(tag("text", label, x=LEFT - 6, y=down(y) + 4, text_anchor="end"))
    for x, label in zip(x_ticks, _distinct(x_ticks), strict=True):
        parts.append(tag("path", d=f"M{across(x):.1f} {HEIGHT - BOTTOM}v4", class_="tick"))
        place = min(across(x), WIDTH - DIGIT / 2 * len(label))
        parts.append(tag("text", label, x=place, y=HEIGHT - BOTTOM + 16, text_anchor="middle"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(tag("text", x_label, x=middle, y=HEIGHT - 4, text_anchor="middle", class_="axis"))
    for curve in reversed(found):  # the first lies on top
        places = [(across(x), down(y)) for x, y in zip(curve.x, curve.y, strict=True)]
        if len(curve.low) > 1:
            upper = zip(curve.x, curve.high, strict=True)
            edges = [*zip(curve.x, curve.low, strict=True), *reversed(list(upper))]
            band = "L".join(f"{across(x):.1f} {down(y):.1f}" for x, y in edges)
            parts.append(tag("path", d=f"M{band}Z", class_=f"band s{curve.kind % KINDS}"))
        parts.append(_line(curve, places))
    return joined(*parts)


def legend(lines: Iterable[tuple[str, int]]) -> Html:
    """Return the list of what lines stand for: their names, each with the kind of line it is drawn as."""
    swatch = {"viewBox": "0 0 30 10", "width": "30", "height": "10", "aria_hidden": "true"}
    items = []
    for name, kind in lines:
        line = tag("path", d="M1 5H29", class_=f"line s{kind % KINDS}")
        items.append(tag("li", tag("svg", line, **swatch), " ", name))
    return tag("ul", *items, class_="legend")


def number(value: float, digits: int = 3) -> str:
    """Return a number of about so many significant digits, as one writes it: 1,234 and 0.00012."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-4 <= abs(value) < 1e7:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
        text = f"{value:,.{places}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{value:.{digits - 1}e}"
        mantissa, exponent = text.split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "\N{MINUS SIGN}")


def _line(curve: Curve, places: Sequence[tuple[float, float]]) -> Html:
    """Return a curve: the line, and at each point that is marked its value, shown where one points at it."""
    kind = f"s{curve.kind % KINDS}"
    d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts = [tag("path", d=d, class_=f"line {kind}")] if len(places) > 1 else []
    step = math.ceil(len(places) / MOST_POINTS) or 1
    for n, (x, y) in list(enumerate(places))[::step]:
        words = f"{curve.name}, {number(curve.x[n])}: {number(curve.y[n], 4)}"
        dot = tag("circle", cx=x, cy=y, r=2.2, class_=f"dot {kind}") if step == 1 else ""
        reach = tag("circle", cx=x, cy=y, r=7, class_="reach")
        parts.append(tag("g", tag("title", words), *([dot] if dot else []), reach))
    return joined(*parts)


def _finite(curve: Curve) -> Curve:
    """Return a curve of those points whose values, and those of the band, are numbers."""
    rows = zip(curve.x, curve.y, curve.low or curve.y, curve.high or curve.y, strict=True)
    kept = [row for row in rows if all(map(math.isfinite, row))]
    x, y, low, high = ([row[n] for row in kept] for n in range(4))
    return Curve(curve.name, x, y, curve.kind, *((low, high) if curve.low else ()))


def _distinct(ticks: Sequence[float]) -> list[str]:
    """Return the numbers with as many digits as it takes to tell them apart, 3 at least."""
    digits = 3
    while len({number(tick, digits) for tick in ticks}) < len(ticks) and digits < 17:
        digits += 1
    return [number(tick, digits) for tick in ticks]


def _in_words(curve: Curve) -> str:
    if not curve.y:
        return f"{curve.name} has no finite values"
    return f"{curve.name} from {number(curve.y[0])} to {number(curve.y[-1])}"


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Return round numbers, evenly spaced, of which the first is at most low and the last at least high."""
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
