"""A climb's or a corpus's folder in; report.html and MODEL_CARD.md in it, and a Report of both, out."""

from pathlib import Path

from stepladder.records import Report
from stepladder.report.cards import model_card
from stepladder.report.page import render_page
from stepladder.report.parts import Parts, read_parts
from stepladder.report.words import show_interval, verdict
from stepladder.store import write_text

PAGE_FILE, CARD_FILE = "report.html", "MODEL_CARD.md"


def build_report(folder: Path) -> Report:
    """Write `folder/report.html`, and `folder/MODEL_CARD.md` once the target has been trained.

    Raises:
        StoreError: the folder holds nothing of a climb, or cannot be written.
    """
    parts = read_parts(folder)
    write_text(folder / PAGE_FILE, render_page(parts))
    if parts.target.run is not None:
        write_text(folder / CARD_FILE, model_card(parts))
    return Report(path=str(folder / PAGE_FILE), headlines=tuple(headlines(parts)))


def headlines(parts: Parts) -> list[str]:
    """What the report says, a line each: scores, tasks, and what is missing."""
    if parts.data.is_alone:
        told = [parts.missing[part] for part in ("corpus", "audit") if part in parts.missing]
        return [*told, *_corpus_line(parts)]
    lines = [verdict(score)[1] for score in parts.scores]
    if parts.forecast and not parts.scores:
        lines.append(f"Forecast loss {show_interval('loss', parts.forecast.loss)}; not measured yet.")
    lines += [f"{task.name}: {task.verdict}" for task in parts.tasks if task.verdict]
    # A climb's folder need not hold its brief: only a brief that cannot be read is worth a line.
    there = {part: text for part, text in parts.missing.items() if part != "brief" or "cannot" in text}
    lines += list(there.values())
    return lines


def _corpus_line(parts: Parts) -> list[str]:
    corpus = parts.corpus
    if corpus is None:
        return []
    return [
        f"{corpus.input_documents:,} documents came in, {corpus.kept_documents:,} are kept: "
        f"{corpus.train.tokens:,} tokens to train on, {corpus.heldout.tokens:,} held out."
    ]
