"""The folder of a climb in; its figures as PNG or SVG files out (extra `plots`)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from stepladder.errors import MissingExtraError
from stepladder.records import to_json
from stepladder.report.marks import Spec
from stepladder.report.page import report_sections
from stepladder.report.parts import read_parts
from stepladder.report.theme import Scheme, vega_config
from stepladder.store import write_bytes

WIDTH = 600
# The newest Vega-Lite that vl-convert-python 1.9 carries; the specifications use nothing newer.
VEGA_LITE = "6.4"
_PIXELS_PER_POINT = 2.0


def export_figures(
    folder: Path, kind: Literal["png", "svg"], out: Path | None = None, *, scheme: Scheme = "light"
) -> list[Path]:
    """Write every figure that the report has to `out` (by default FOLDER/figures).

    Raises:
        MissingExtraError: vl-convert-python is not installed.
        StoreError: the folder holds nothing of a climb, or cannot be written.
    """
    _converter()
    sections = report_sections(read_parts(folder))
    specs = {key: spec for section in sections for key, spec in section.figures.items()}
    return write_figures(specs, kind, out or folder / "figures", scheme=scheme)


def write_figures(
    specs: Mapping[str, Spec], kind: Literal["png", "svg"], out: Path, *, scheme: Scheme = "light"
) -> list[Path]:
    """One file a specification, named by its key."""
    paths = []
    for key, spec in specs.items():
        path = out / f"{key}.{kind}"
        write_bytes(path, render(spec, kind, scheme))
        paths.append(path)
    return paths


def render(spec: Spec, kind: Literal["png", "svg"], scheme: Scheme = "light") -> bytes:
    """One figure as bytes, 600 wide (PNG: 1,200 pixels)."""
    converter = _converter()
    whole = json.dumps(to_json({**spec, "width": WIDTH, "config": vega_config(scheme)}))
    if kind == "svg":
        return converter.vegalite_to_svg(whole, vl_version=VEGA_LITE).encode()
    return converter.vegalite_to_png(whole, vl_version=VEGA_LITE, scale=_PIXELS_PER_POINT)


def _converter():
    try:
        import vl_convert
    except ImportError as error:
        raise MissingExtraError("writing figures as files", "plots") from error
    return vl_convert
