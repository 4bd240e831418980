"""The page opens offline, escapes what a corpus holds, and says what is missing."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from stepladder.cli import main
from stepladder.errors import StoreError
from stepladder.laws.registry import freeze, record_outcomes, write_forecasts
from stepladder.records import Forecast, Interval
from stepladder.report.build import build_report
from stepladder.report.page import render_page
from stepladder.report.parts import read_parts
from stepladder.report.sections import _equation

SECTIONS = ["outcome", "law", "ladder", "plan", "training", "data", "tasks", "cost", "reproduce", "limits"]


class Reader(HTMLParser):
    """Collects what a browser would load, run, or list, and the visible text."""

    def __init__(self, page: str):
        super().__init__()
        self.loads, self.tags, self.text, self.ids, self.handlers = [], [], [], [], []
        self._skip = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster") and not (value or "").startswith(
                "#"
            ):
                self.loads.append((tag, value))
            if name == "id":
                self.ids.append(value)
            if name.startswith("on"):
                self.handlers.append((tag, name))
        self._skip += tag in ("script", "style")

    def handle_endtag(self, tag):
        self._skip -= tag in ("script", "style")

    def handle_data(self, data):
        if not self._skip:
            self.text.append(data)


@pytest.fixture(scope="module")
def page(finished):
    return render_page(read_parts(finished))


def test_page_loads_nothing(page):
    reader = Reader(page)
    assert reader.loads == []
    assert reader.handlers == []
    assert "link" not in reader.tags
    assert "img" not in reader.tags
    assert "sourceMappingURL" not in page
    assert "default-src 'none'" in page
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_specifications_load_no_data(page):
    specs = json.loads(re.search(r'id="specs">(.*?)</script>', page, re.S).group(1))
    assert '"url"' not in json.dumps(specs["figures"])
    assert set(specs["figures"]) == set(re.findall(r'id="figure-([^"]+)"', page))


def test_page_is_small(page):
    assert len(page.encode()) < 1_200_000


def test_sections_in_order(page):
    ids = [name for name in Reader(page).ids if name in SECTIONS]
    assert ids == SECTIONS


def test_hostile_text_of_the_corpus_stays_text(page, example):
    reader = Reader(page)
    assert "alert(" not in "".join(re.findall(r"<script[^>]*>(.*?)</script>", page.split("</main>")[0], re.S))
    assert example.HOSTILE in "".join(reader.text)
    assert reader.tags.count("script") == 5  # three libraries, the specifications, the drawing


def test_hostile_names_stay_text_in_figures_and_title(climb):
    hostile = "</script><script>alert(1)</script>"
    path = climb / "tune" / "code-or-prose@1" / "results.json"
    value = json.loads(path.read_text())
    for row in value["rows"]:
        row["method"] = hostile + row["method"]
    path.write_text(json.dumps({**value, "task": hostile, "verdict": hostile}))
    plan = climb / "plan.json"
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "name": hostile}))
    (climb / "stepladder.toml").unlink()
    page = render_page(read_parts(climb))
    reader = Reader(page)
    assert reader.tags.count("script") == 5
    assert hostile in "".join(reader.text)


def test_headline_says_hit_or_miss_with_the_signed_error(finished):
    lines = build_report_copy(finished)
    assert lines[0].startswith(("Hit:", "Miss"))
    assert re.search(r"error [+-]\d+\.\d %", lines[0])
    assert lines[1].startswith("Hit: the forecast of wall time was 3.8 % too low")


def build_report_copy(finished):
    from stepladder.report.build import headlines

    return headlines(read_parts(finished))


@pytest.mark.parametrize(
    ("gone", "sentence", "command"),
    [
        ("corpus", "corpus/corpus.json is not there yet.", "stepladder data"),
        ("ladder", "ladder/observations.csv is not there yet.", "stepladder ladder"),
        ("law.json", "law.json is not there yet.", "stepladder fit ladder/observations.csv"),
        ("plan.json", "plan.json is not there yet.", "stepladder plan"),
        ("forecast.json", "forecast.json is not there yet.", "stepladder plan"),
        ("target@1", "target@1/run.json is not there yet.", "stepladder train plan.json"),
        ("tune", "No task was tuned and scored yet", "stepladder tune"),
    ],
)
def test_a_missing_part_says_so_and_names_its_command(climb, gone, sentence, command):
    path = climb / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = "".join(Reader(render_page(read_parts(climb))).text)
    assert sentence in text
    assert command in text


def test_only_a_brief_still_makes_a_page(climb, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(climb / "stepladder.toml", alone)
    report = build_report(alone)
    text = (alone / "report.html").read_text()
    assert report.path == str(alone / "report.html")
    assert [name for name in Reader(text).ids if name in SECTIONS] == SECTIONS
    assert not (alone / "MODEL_CARD.md").exists()


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("law.json", b'{"form": "chinchilla"'),
        ("law.json", b"[1, 2]"),
        ("plan.json", b'{"name": 3}'),
        ("corpus/audit.json", b"\xff\xfe\x00"),
        ("ladder/observations.csv", b"params,tokens\n1,2\n"),
        ("ladder/observations.csv", b"params,tokens,loss\n1,two,3\n"),
        ("ladder/observations.csv", b"params,tokens,loss\n0,2,3\n"),
        ("ladder/observations.csv", b"\xff\xfe"),
        ("ladder/observations.csv", b""),
        ("target@1/run.json", b"{}"),
        ("target@1/metrics.jsonl", b'{"step": 1\n{"step": 2}\n'),
        ("forecast.json", b'{"forecasts": 3}'),
        ("stepladder.toml", b"name = \n"),
        ("tune/code-or-prose@1/results.json", b'{"rows": [{"task": "t"}]}'),
    ],
)
def test_a_damaged_part_is_told_in_the_page_and_spares_the_rest(climb, place, content):
    (climb / place).write_bytes(content)
    parts = read_parts(climb)
    told = [text for text in parts.missing.values() if text.startswith(f"{place} cannot be used")]
    assert len(told) == 1
    assert str(climb) not in told[0]
    text = "".join(Reader(render_page(parts)).text)
    assert told[0] in text


def test_audit_of_another_form_does_not_break_the_page(climb):
    (climb / "corpus" / "audit.json").write_text(
        '{"removed": {"rule": 3, "other": {"documents": 2, "examples": ["<b>x"]}}, "licences": [1]}'
    )
    text = "".join(Reader(render_page(read_parts(climb))).text)
    assert "other: 2 documents" in text
    assert "<b>x" in text


def test_a_changed_forecast_is_told(climb):
    path = climb / "forecast.json"
    value = json.loads(path.read_text())
    value["forecasts"][0]["loss"]["value"] *= 0.99
    path.write_text(json.dumps(value))
    text = "".join(Reader(render_page(read_parts(climb))).text)
    assert "The forecast of target was changed after it was frozen." in text


def test_whole_numbers_in_a_frozen_forecast_are_no_change(climb):
    from stepladder.laws.registry import freeze, write_forecasts
    from stepladder.records import Forecast, Interval

    loss = Interval(value=1.5, low80=1.45, high80=1.55, low95=1.4, high95=1.6)
    frozen = freeze(
        Forecast(run="target", params=1_600_000, tokens=26_000_000, loss=loss, loss_unit="bits_per_byte")
    )
    write_forecasts(climb / "forecast.json", [frozen])
    assert "frozen" not in read_parts(climb).missing


def test_outcomes_that_are_no_numbers_are_not_scored(climb):
    interval = {"value": 1.5, "low80": 1.4, "high80": 1.6, "low95": 1.3, "high95": 1.7}
    rows = [
        {"run": "t", "quantity": "loss", "forecast": interval, "outcome": outcome}
        for outcome in (None, 0, 1.55)
    ]
    (climb / "score.json").write_text(json.dumps({"scores": rows}))
    assert [score.outcome for score in read_parts(climb).scores] == [1.55]


def test_a_run_that_metered_nothing_still_has_a_page(climb):
    path = climb / "target@1" / "run.json"
    path.write_text(
        json.dumps(
            {**json.loads(path.read_text()), "joules": 0.0, "heldout_loss": None, "status": "diverged"}
        )
    )
    parts = read_parts(climb)
    assert parts.scores == ()
    text = "".join(Reader(render_page(parts)).text)
    assert "The target run ended with status 'diverged'." in text


def test_a_refused_forecast_is_told(climb):
    path = climb / "forecast.json"
    value = json.loads(path.read_text())
    value["forecasts"][0] |= {"status": "refused", "reason": "all rungs have one ratio"}
    path.write_text(json.dumps(value))
    text = "".join(Reader(render_page(read_parts(climb))).text)
    assert "The law refused this forecast: all rungs have one ratio" in text


def test_parts_that_do_not_belong_together_are_told(climb):
    plan = json.loads((climb / "plan.json").read_text())
    (climb / "plan.json").write_text(json.dumps({**plan, "corpus_fingerprint": "f" * 16}))
    text = "".join(Reader(render_page(read_parts(climb))).text)
    assert "The plan was made for another corpus than the one in this folder." in text


def test_newest_version_of_the_target_is_read(climb):
    shutil.copytree(climb / "target@1", climb / "target@12")
    shutil.copytree(climb / "target@1", climb / "target@2")
    assert read_parts(climb).target.name == "target@12"


def test_a_folder_without_a_climb_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="holds nothing of a climb"):
        build_report(tmp_path)
    with pytest.raises(StoreError, match="is not a folder"):
        build_report(tmp_path / "absent")


def test_verb_prints_headlines_and_path(climb, capsys):
    assert main(["report", str(climb)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"report: {climb / 'report.html'}"
    assert any(line.startswith("code-or-prose: Use the linear model") for line in out)


def test_verb_prints_one_json_object_and_writes_figures(climb, capsys):
    assert main(["report", str(climb), "--figures", "svg", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["path"] == str(climb / "report.html")
    assert str(climb / "figures" / "law.svg") in value["figures"]
    assert (climb / "figures" / "law.svg").exists()


def test_verb_on_an_empty_folder_is_a_user_error(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "stepladder init" in capsys.readouterr().err


def test_the_equation_is_that_of_the_form():
    terms = {"E": 1.1, "A": 47.0, "B": 43.0, "alpha": 0.36, "beta": 0.3}
    added = _equation("chinchilla", terms)
    assert added.startswith(
        "L(<i>N</i>, <i>D</i>) = 1.1 + 47 / <i>N</i><sup>0.36</sup> + 43 / <i>D</i><sup>0.3</sup>"
    )
    joined = _equation("coupled", {**terms, "kappa": 0.7})
    assert "<sup>1/0.7</sup>" in joined
    assert joined.endswith("]<sup>0.7</sup>")


def test_forecasts_of_tasks_stand_beside_their_outcomes(climb):
    path = climb / "task_forecast.json"
    said = Forecast(
        run="target kinds, gold answers",
        params=1e6,
        tokens=1e7,
        loss=Interval(value=2.0, low80=1.9, high80=2.1, low95=1.85, high95=2.15),
        loss_unit="answer_bits_per_byte",
    )
    refused = replace(said, run="target kinds, zero-shot", status="refused", reason="at <chance>")
    write_forecasts(path, [freeze(said), freeze(refused)])
    record_outcomes(path, {said.run: 2.12})
    text = " ".join(Reader(render_page(read_parts(climb))).text)
    assert "kinds, gold answers" in text
    assert "95\u00a0% only" in text
    assert "kinds, zero-shot: refused; at <chance>" in text
    assert any("0 of 1 outcomes inside the 80 %" in line for line in build_report(climb).headlines)
    path.write_text("{")
    assert "task_forecast.json cannot be used" in render_page(read_parts(climb))
