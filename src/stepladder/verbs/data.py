"""`stepladder data`: paths of text in, a corpus folder and a short table of what happened out."""

import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

app = App(name="data", result_action="return_value")
app.command(
    "stepladder.verbs.data_check:check",
    name="check",
    help="Look for later test examples in the training text of a corpus, by the n-grams that it kept.",
)
app.command(
    "stepladder.verbs.data_ablate:ablate", name="ablate", help="Measure what a rule or a source is worth."
)
app.command(
    "stepladder.verbs.data_mixture:mixture", name="mixture", help="Choose shares of sources by small runs."
)

app.command(
    "stepladder.verbs.data_repeats:repeats", name="repeats", help="Measure what repeating text costs."
)
app.command(
    "stepladder.verbs.data_example:example",
    name="example",
    help="Write a real labelled set that needs no hub, or list those there are.",
)
app.command(
    "stepladder.verbs.data_labels:app", name="labels", help="What labels are worth, and how to get more."
)


@app.default
def data(
    *sources: Annotated[
        str, Parameter(help="Files, folders, globs, or python:installed, :code, :prose, :docstrings.")
    ],
    out: Annotated[Path, Parameter(help="Folder of the corpus.")] = Path("corpus"),
    vocab_size: Annotated[str, Parameter(help="Tokens of the vocabulary, or auto: by measurement.")] = "4096",
    for_params: Annotated[float, Parameter(help="Parameters of the model, for --vocab-size auto.")] = 0,
    held_out: Annotated[str, Parameter(help="Share of the text to hold out, or a path of its own.")] = "0.05",
    seed: Annotated[int, Parameter(help="Chooses the sample, the held-out files and the order.")] = 0,
    max_bytes: Annotated[int, Parameter(help="Cap on the input: a sample of whole files (0: none).")] = 0,
    text_column: Annotated[str, Parameter(help="Column of JSON lines and Parquet.")] = "text",
    language: Annotated[tuple[str, ...], Parameter(help="A language to keep.", negative="")] = (),
    dedup_jaccard: Annotated[float, Parameter(help="Similarity from which texts are duplicates.")] = 0.8,
    column: Annotated[
        tuple[str, ...],
        Parameter(help="STANDARD=OWN: text, source, domain, licence, group or date by its own name."),
    ] = (),
    quality: Annotated[bool, Parameter(help="Apply the quality rules of each domain.")] = True,
    rules_on: Annotated[
        tuple[str, ...], Parameter(help="A rule or set to add: c4, fineweb, ...", negative="")
    ] = (),
    rules_off: Annotated[tuple[str, ...], Parameter(help="A rule or set to leave out.", negative="")] = (),
    pii: Annotated[str, Parameter(help="Personal data and secrets: replace, drop or keep.")] = "replace",
    evaluation: Annotated[tuple[str, ...], Parameter(help="Test examples to keep out.", negative="")] = (),
    canaries: Annotated[int, Parameter(help="Random lines to plant at each of 1, 4, 16, 64 copies.")] = 0,
    workers: Annotated[int, Parameter(help="Processes (0: one a core); the result is the same.")] = 0,
    executor: Annotated[str, Parameter(help="Where tasks run: local, ray, ray://HOST:PORT.")] = "local",
    dry_run: Annotated[bool, Parameter(negative="", help="Estimate from a sample, write nothing.")] = False,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Turn text into clean, deduplicated, tokenised shards and a card that says what was removed and why.

    The same command goes on where an interrupted one stopped, and does nothing when all is done.
    """
    from stepladder.data.options import Cleaning, CorpusOptions, Dedup, Reading

    require_sources(sources)
    options = CorpusOptions(
        vocab_size=_size(vocab_size),
        for_params=int(for_params),
        held_out=share_or_path(held_out),
        seed=seed,
        dedup=Dedup(jaccard=dedup_jaccard),
        max_bytes=max_bytes,
        canaries=canaries,
        workers=workers,
        reading=Reading(text_column=text_column, columns=_pairs(column)),
        cleaning=Cleaning(
            languages=language,
            quality=quality,
            rules_on=rules_on,
            rules_off=rules_off,
            pii=pii,
            evaluation_sets=evaluation,
        ),
    )
    if dry_run:
        return _dry_run(sources, options, as_json=json_)
    return _prepare(sources, out, options, executor, as_json=json_)


def _prepare(sources: tuple[str, ...], out: Path, options: Any, where: str, *, as_json: bool) -> int:
    from stepladder.data.prepare import AUDIT_FILE, prepare_corpus
    from stepladder.launch.cluster import executor
    from stepladder.records import to_json
    from stepladder.store import read_json

    choose = partial(_choose_vocabulary, options.for_params)
    corpus = prepare_corpus(sources, out, options, choose=choose, executor=partial(executor, where))
    if as_json:
        print(json.dumps({**to_json(corpus), "folder": str(out)}))
        return 0
    for line in _table(read_json(out / AUDIT_FILE)):
        print(line)
    print(
        f"{corpus.seconds:.1f} s, {corpus.cpu_seconds:.1f} CPU s, "
        f"{corpus.input_bytes / 1e6 / max(corpus.cpu_seconds, 1e-9):.1f} MB per CPU s; "
        f"what was removed and why: {out / 'DATA_CARD.md'}"
    )
    return 0


def _size(word: str) -> int:
    from stepladder.errors import DataError

    if word == "auto":
        return 0
    if not word.isdecimal() or word == "0":
        raise DataError("the size of the vocabulary is no number", got=word, allowed="a number, or auto")
    return int(word)


def _choose_vocabulary(params: int, bytes_per_token: Mapping[int, float]) -> dict[str, Any]:
    from stepladder.laws.vocabulary import choose_vocabulary
    from stepladder.models.count import count_params
    from stepladder.models.shape import shape_for_params

    # Width and inner parameters hardly move with the size that is asked for here: any usual one will do.
    shape = shape_for_params(params, vocab_size=8192, context_tokens=1024)
    inner = count_params(shape).nonembed
    return asdict(choose_vocabulary(bytes_per_token, nonembedding_params=inner, width=shape.width))


def require_sources(sources: tuple[str, ...]) -> None:
    """DataError with an example where no source is given."""
    from stepladder.errors import DataError

    if not sources:
        raise DataError(
            "no source is given",
            allowed="files, folders, globs, addresses, python:installed, python:code, python:prose, "
            "python:docstrings",
            next_command="stepladder data python:prose --out corpus",
        )


def _pairs(words: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    from stepladder.errors import DataError

    pairs = tuple(tuple(word.split("=", 1)) for word in words)
    if wrong := [word for word, pair in zip(words, pairs, strict=True) if len(pair) != 2]:
        raise DataError("a column is not given as STANDARD=OWN", got=", ".join(wrong), allowed="text=body")
    return pairs  # pyrefly: ignore


def share_or_path(text: str) -> float | str:
    """A held-out share as a number, anything else as a path."""
    try:
        return float(text)
    except ValueError:
        return text


def _table(audit: dict[str, Any]) -> list[str]:
    from stepladder.units import format_bytes

    totals = audit["totals"]
    rows = [("came in", totals["input_documents"], totals["input_bytes"], "")]
    rows.append(("quarantined", totals["quarantined_documents"], totals["quarantined_bytes"], ""))
    rows += [(rule, e["documents"], e["num_bytes"], e["why"]) for rule, e in audit["removed"].items()]
    trimmed = totals["normalised_bytes"] + totals["boilerplate_bytes"]
    rows.append(("(trimmed)", 0, trimmed, "blanks, line ends, boilerplate lines"))
    for split, entry in audit["splits"].items():
        note = f"{entry['tokens']:,} tokens, {entry['bytes_per_token']:.2f} bytes each"
        rows.append((split, entry["documents"], entry["num_bytes"], note))
    return [
        f"{name:24s} {f'{count:,}' if count else '':>10s} {format_bytes(size):>10s}  {note}".rstrip()
        for name, count, size, note in rows
        if count or size
    ]


def _dry_run(sources: tuple[str, ...], options: Any, *, as_json: bool) -> int:
    from stepladder.data.estimate import estimate
    from stepladder.units import format_bytes, format_seconds

    result = estimate(sources, options)
    if as_json:
        print(json.dumps(result))
        return 0
    print(f"{result['files']:,} files, {format_bytes(result['input_bytes'])}")
    print(
        f"about {format_seconds(result['seconds'])} and {format_bytes(result['disk_bytes'])} of disk at work"
    )
    print(f"share of documents that each rule would remove (of {result['sample_documents']:,} looked at);")
    print("what is off removes nothing unless --rules-on names it, then its share more:")
    for domain, entry in result["rules"].items():
        print(f"  {domain}: {entry['documents']:,} documents")
        for line in _rule_lines(entry):
            print(line)
    dedup = result["dedup"]
    chances = ", ".join(f"{100 * chance:.4g} % at {alike}" for alike, chance in result["collisions"].items())
    told = (
        f"near-duplicates: a pair is compared with a probability of {chances} of Jaccard similarity "
        f"({dedup['bands']} bands of {dedup['band_rows']} values), and joined from {dedup['jaccard']} on; "
        "how many there are is known only after all text is read"
    )
    print(textwrap.fill(told, 100))
    return 0


def _rule_lines(entry: dict[str, Any]) -> list[str]:
    """Rules that are on, then those that are off: two lines each, at most 100 columns."""
    from stepladder.data.card.audit import RULES

    lines = []
    for state, found in (("", entry["removed"]), ("off", entry["off"])):
        for rule, counted in sorted(found.items(), key=lambda item: -item[1]["documents"]):
            if counted["documents"]:
                why = textwrap.shorten(RULES.get(rule, ""), 51, placeholder=" ...")
                lines.append(f"    {state:3s} {rule:32s} {counted['share']:5.1%}  {why}".rstrip())
                ends = ["/".join(name.split("/")[-2:]) for name in counted["examples"]]
                cut = [name if len(name) <= 28 else name[:25] + "..." for name in ends]
                lines.append(" " * 8 + ", ".join(cut))
    if idle := [rule for rule, counted in entry["off"].items() if not counted["documents"]]:
        told = "off and without effect here: " + ", ".join(idle)
        lines += textwrap.wrap(told, 96, initial_indent=" " * 4, subsequent_indent=" " * 8)
    return lines
