"""A climb's or a corpus's folder in; report.html and the cards in it, and a Report of both, out."""

from pathlib import Path

from stepladder.data.card.croissant import CROISSANT_FILE, with_statements
from stepladder.records import Report, to_json
from stepladder.report.cards import model_card, tuned_card
from stepladder.report.eu_summary import eu_summary
from stepladder.report.page import render_page
from stepladder.report.parts import Parts, read_parts
from stepladder.report.planted import planted_line
from stepladder.report.task_forecasts import forecast_line
from stepladder.report.words import show_interval, verdict
from stepladder.store import read_json, write_json, write_text

PAGE_FILE, CARD_FILE, SUMMARY_FILE = "report.html", "MODEL_CARD.md", "EU_SUMMARY.md"


def build_report(folder: Path) -> Report:
    """Write `folder/report.html` and, once the target has been trained, the cards of all models.

    MODEL_CARD.md and EU_SUMMARY.md lie in the folder, the card of a tuned model in tune/TASK@1. What the
    brief's `[card]` states of the corpus is written into its croissant.json.

    Raises:
        StoreError: the folder holds nothing of a climb, or cannot be written.
    """
    parts = read_parts(folder)
    write_text(folder / PAGE_FILE, render_page(parts))
    if parts.target.run is not None:
        _write_cards(folder, parts)
    return Report(path=str(folder / PAGE_FILE), headlines=tuple(headlines(parts)))


def _write_cards(folder: Path, parts: Parts) -> None:
    write_text(folder / CARD_FILE, model_card(parts))
    write_text(folder / SUMMARY_FILE, eu_summary(parts))
    for task in parts.tasks:
        write_text(folder / task.place / CARD_FILE, tuned_card(parts, task))
    described = folder / "corpus" / CROISSANT_FILE
    if parts.brief and described.exists():
        before = read_json(described)
        if (stated := with_statements(before, to_json(parts.brief.card))) != before:
            write_json(described, stated)


def headlines(parts: Parts) -> list[str]:
    """What the report says, a line each: scores, tasks, and what is missing."""
    if parts.data.is_alone:
        told = [parts.missing[part] for part in ("corpus", "audit") if part in parts.missing]
        return [*told, *_corpus_line(parts)]
    lines = [verdict(score)[1] for score in parts.scores]
    if parts.forecast and not parts.scores:
        lines.append(f"Forecast loss {show_interval('loss', parts.forecast.loss)}; not measured yet.")
    lines += forecast_line(parts.foretold)
    lines += planted_line(parts.target.exposure)
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
