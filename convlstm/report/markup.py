"""HTML and SVG put together from parts, so that a text can never become an element of the page."""

import base64
import html

__all__ = ["Html", "data_uri", "joined", "tag"]

VOID = frozenset({"br", "img", "meta"})  # elements that have no end


class Html(str):
    """Text that is HTML already; every other text is escaped where it is put into an element."""

    __slots__ = ()


def tag(element: str, *children: str, **attributes: str | float | None) -> Html:
    """Return an element with its children, which are escaped unless they are `Html`.

    Args:
        element: its name.
        children: texts and elements.
        attributes: by name, always escaped; one that is None is left out. An underscore at the end of a name
            is dropped (class_), others become hyphens (stroke_width).
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    start = f"<{element}{given}>"
    return Html(start if element in VOID else f"{start}{joined(*children)}</{element}>")


def joined(*children: str) -> Html:
    """Return texts and elements one after the other, escaped as those of `tag`."""
    return Html("".join(child if isinstance(child, Html) else html.escape(child) for child in children))


def data_uri(kind: str, content: bytes) -> str:
    """Return a file of a kind such as "image/png" as an address that holds all of it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _text(value: str | float) -> str:
    """Return an attribute's value; coordinates to a hundredth, which no screen can tell from more."""
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
