"""The page in a real browser: every figure is drawn, nothing else is fetched, nothing of the corpus runs."""

import re
import shutil
import subprocess

import pytest

from stepladder.report.build import build_report

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)
pytestmark = [pytest.mark.ui, pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")]
QUIET = (
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def dom(page, profile) -> str:
    """The document after its scripts have run."""
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", *QUIET, "--virtual-time-budget=10000"]
    done = subprocess.run(
        [*words, f"--user-data-dir={profile}", "--dump-dom", page.resolve().as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_every_figure_is_drawn(climb, tmp_path):
    build_report(climb)
    drawn = dom(climb / "report.html", tmp_path / "profile")
    assert 'data-drawn="yes"' in drawn
    body = drawn.split("</main>")[0]
    assert "could not be drawn" not in body
    places = re.findall(r'id="figure-([^"]+)"', drawn)
    assert len(places) == 19
    assert body.count("<svg") == len(places)
    assert "<img" not in body
