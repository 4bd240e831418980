"""Parts of a climb in; one HTML text out that opens without a network, with every figure drawn in it.

Vega, Vega-Lite and vega-embed stand in the page. A content security policy forbids every load, so that a
hostile document in the corpus cannot reach out either. Figures are SVG: their text takes the colours of the
style sheet, so that light, dark and print need one drawing.
"""

import json
import re
from collections.abc import Sequence
from importlib import resources
from string import Template

from stepladder import __version__
from stepladder.records import to_json
from stepladder.report import data_section, more_sections, sections
from stepladder.report import planted as planted_section
from stepladder.report.html import Html, esc, join, tag
from stepladder.report.parts import Parts
from stepladder.report.sections import Section
from stepladder.report.theme import FONT, colours, vega_config

VENDORED = ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js")


def report_sections(parts: Parts) -> list[Section]:
    """The sections in the order of the page; of a corpus alone only what is known of it."""
    if parts.data.is_alone:
        return [data_section.data(parts)]
    planted = planted_section.planted(parts.target.exposure)
    return [
        sections.headline(parts),
        sections.law(parts),
        sections.ladder(parts),
        sections.plan(parts),
        sections.training(parts),
        data_section.data(parts),
        more_sections.tasks(parts),
        *([planted] if planted.title else []),
        more_sections.cost(parts),
        more_sections.reproduce(parts),
        sections.warnings(parts),
    ]


def render_page(parts: Parts) -> str:
    """The whole page of a climb, or of a corpus alone."""
    shown = report_sections(parts)
    return page_of(f"{parts.name}: stepladder report", parts.name, shown, contents=len(shown) > 1)


def page_of(title: str, name: str, shown: Sequence[Section], *, contents: bool = True) -> str:
    """Sections as one page; `contents` puts links to them on top."""
    specs = {key: spec for section in shown for key, spec in section.figures.items()}
    config = {**vega_config("light"), "background": None}
    links = [tag("a", section.title, href=f"#{section.key}") for section in shown] if contents else []
    return Template(_asset("page.html")).substitute(
        title=esc(title),
        name=esc(name),
        style=_style(),
        contents=join(links),
        body=join([tag("section", tag("h2", s.title), s.body, id=s.key) for s in shown]),
        libraries=_libraries() if specs else "",
        specs=_json_in_script({"config": config, "figures": specs}),
        script=_asset("page.js"),
        version=esc(__version__),
    )


def _style() -> Html:
    """The style sheet with both schemes' colours as variables."""
    light, dark = (
        "".join(f"--{name}:{value};" for name, value in colours(scheme).items())
        for scheme in ("light", "dark")
    )
    return Html(
        f":root{{{light}--font:{FONT}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}color-scheme:dark}}}}"
        + _asset("page.css")
    )


def _libraries() -> str:
    scripts = "".join(f"<script>{_script(_vendored(name))}</script>\n" for name in VENDORED)
    licence = _vendored("LICENSE.vega").replace("--", "- -")
    return f"<!-- Vega, Vega-Lite and vega-embed (BSD-3-Clause):\n{licence}-->\n{scripts}"


def _script(text: str) -> str:
    """JavaScript for the inside of a script element, without the line that makes tools load a source map."""
    text = re.sub(r"\n?//# sourceMappingURL=\S+\s*$", "", text)
    assert "</script" not in text.lower(), "a vendored file would end its own script element"
    return text


def _json_in_script(value: object) -> str:
    """JSON, null for NaN, in which no character can end the script element."""
    text = json.dumps(to_json(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return re.sub("[<>&\u2028\u2029]", lambda found: escapes[found.group()], text)


def _asset(name: str) -> str:
    return (resources.files("stepladder.report") / name).read_text(encoding="utf-8")


def _vendored(name: str) -> str:
    return (resources.files("stepladder.report") / "vendor" / name).read_text(encoding="utf-8")
