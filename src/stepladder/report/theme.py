"""A colour scheme in; the palette and the Vega-Lite config that every figure shares out."""

from typing import Any, Literal

# Vermillion and bluish green of Okabe and Ito's palette for colour-blind readers, its blue a little lighter
# and its purple a little darker: these have a contrast of at least 3 to both grounds below, so that one
# figure serves both schemes (tested).
BLUE, VERMILLION, GREEN, PURPLE = "#1F83C4", "#D55E00", "#009E73", "#B5679D"
GREY = "#7f7f7f"

Scheme = Literal["light", "dark"]
_INK: dict[Scheme, dict[str, str]] = {
    "light": {"ink": "#1f2328", "soft": "#57606a", "line": "#d8dce0", "ground": "#ffffff"},
    "dark": {"ink": "#e6e8ea", "soft": "#9aa4ae", "line": "#33393f", "ground": "#15181c"},
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def colours(scheme: Scheme) -> dict[str, str]:
    """Ink, soft ink, line and ground of a scheme; the page's style sheet uses the same four."""
    return dict(_INK[scheme])


def vega_config(scheme: Scheme = "light") -> dict[str, Any]:
    """Vega-Lite `config`: fonts, lines and text colours; marks carry their own colours."""
    tone = _INK[scheme]
    return {
        "background": tone["ground"],
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "labelColor": tone["soft"],
            "titleColor": tone["soft"],
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 8,
            "domainColor": tone["line"],
            "tickColor": tone["line"],
            "gridColor": tone["line"],
            "gridOpacity": 0.7,
            "labelLimit": 150,
            "labelOverlap": True,
        },
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "axisX": {"tickCount": 6},
        "legend": {
            "orient": "top",
            "title": None,
            "labelColor": tone["ink"],
            "labelFontSize": 12,
            "labelLimit": 220,
            "columns": 2,
            "columnPadding": 16,
            "offset": 8,
            "symbolOpacity": 1,
        },
        "text": {"color": tone["ink"], "fontSize": 12},
    }
