"""Text and values in; escaped pieces of HTML out. Nothing reaches the page but through these functions."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class Html(str):
    """Text that is HTML already; everything else is escaped."""

    __slots__ = ()


def esc(value: Any) -> Html:
    """Escaped text; Html as it is. Control characters, which HTML forbids, become U+FFFD."""
    if isinstance(value, Html):
        return value
    text = "".join(ch if ch >= " " or ch in "\n\t" else "\ufffd" for ch in str(value))
    return Html(html.escape(text, quote=True))


def join(pieces: Iterable[Any], separator: str = "") -> Html:
    """Pieces one after the other, each escaped where it is not Html."""
    return Html(separator.join(esc(piece) for piece in pieces))


def tag(name: str, *inner: Any, **attributes: Any) -> Html:
    """An element; `class_` is written as class."""
    written = "".join(f' {key.rstrip("_")}="{esc(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{written}>{join(inner)}</{name}>")


def paragraph(*inner: Any, class_: str = "") -> Html:
    """A paragraph."""
    return tag("p", *inner, class_=class_) if class_ else tag("p", *inner)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Sequence[int] = ()) -> Html:
    """A table that scrolls sideways on a narrow screen; columns in `numbers` are set to the right."""
    side = dict.fromkeys(numbers, ' class="number"')
    top = "".join(f"<th scope='col'{side.get(i, '')}>{esc(cell)}</th>" for i, cell in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{side.get(i, '')}>{esc(cell)}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return Html(
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def facts(pairs: Mapping[str, Any]) -> Html:
    """A short list of names and values."""
    return tag("dl", *[join([tag("dt", name), tag("dd", value)]) for name, value in pairs.items()])


def listing(items: Iterable[Any]) -> Html:
    """A bullet list; nothing at all when there are no items."""
    pieces = [tag("li", item) for item in items]
    return tag("ul", *pieces) if pieces else Html("")


def commands(*lines: str) -> Html:
    """Lines to type."""
    return tag("pre", tag("code", "\n".join(lines)))


def figure(key: str, caption: str) -> Html:
    """The place where the page's script draws the figure of that key."""
    return tag("figure", tag("div", class_="plot", id=f"figure-{key}"), tag("figcaption", caption))


def missing(sentence: str, command: str) -> Html:
    """What is not there, and the command that makes it."""
    makes = join([" This makes it: ", tag("code", command)]) if command else ""
    return tag("p", sentence, makes, class_="missing")
