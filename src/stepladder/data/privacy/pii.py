"""A column of texts in; the same texts with personal data and secrets replaced, and counts per document, out.

Rust regular expressions over the whole column (the pre-tests) choose the documents and then the lines that
Python looks at. A finding depends on its own line only, except for private key blocks. A changed line is
searched again until nothing is found, so that a second application finds nothing.

Placeholders are taken from ranges that standards keep free for documentation, so that a text keeps its form
and no placeholder belongs to anybody:

- e-mail: `email@example.com` (RFC 2606; FineWeb, arXiv 2406.17557, uses the same);
- IP address: `192.0.2.1` (RFC 5737) and `2001:db8::1` (RFC 3849). FineWeb's own are addresses that did not
  answer a ping when they were chosen, and may be given to somebody tomorrow;
- phone: `+1 202 555 0100` (555-0100 to 555-0199 are kept for fiction by the North American plan);
- card: `0000 0000 0000 0000` (no issuer's number starts with 0, ISO/IEC 7812);
- IBAN: `XX00 0000 0000 0000 0000` (XX is no country of ISO 3166, 00 no check number of ISO 13616);
- secret: `<SECRET>`, as StarCoder (arXiv 2305.06161) marks keys: no key format allows the brackets.

Precision, read by eye on 2026-11-26, 50 findings of a kind drawn at random or all where there are fewer:

| kind | python:installed, 269 MB | manual pages, /usr/share/doc and web files, 247 MB |
|---|---|---|
| email | 50 of 50 are addresses, 5 invented in tests | 50 of 50, 1 invented |
| ip | 50 of 50 (of 84) are public addresses, most from tests of `ipaddress` | 50 of 50, most from manuals |
| phone | 8 of 8, two numbers | 7 of 7 |
| card | none found among 1,800 of that form | none among 181 |
| iban | none among 54 of that form | 2 of 2, one account |
| secret | 1 of 1, a token in the code of a package | 1 of 1, the key of an example; 91 others passed over |

These texts hold too few phone numbers and secrets, and no card numbers, to say how precise those are
elsewhere. What is missed by design: addresses written out ("ann at mit dot edu"), numbers without a context
word or a plus sign, card numbers in one run without a word about cards, weak passwords in URLs, tokens
without a prefix.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from stepladder.data.privacy.codes import cards, ibans, key_blocks, secrets
from stepladder.data.privacy.contacts import PHONE_WORD, Span, emails, ips, phones
from stepladder.errors import DataError, did_you_mean

KINDS: tuple[str, ...] = ("email", "ip", "phone", "card", "iban", "secret")
PLACEHOLDERS = {
    "email": "email@example.com",
    "ip": "192.0.2.1",
    "phone": "+1 202 555 0100",
    "card": "0000 0000 0000 0000",
    "iban": "XX00 0000 0000 0000 0000",
    "secret": "<SECRET>",
}
IPV6_PLACEHOLDER = "2001:db8::1"
# A URL's password is a secret before its end looks like an e-mail address; of numbers the one with the
# strictest test comes first.
_FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "secret": secrets,
    "email": emails,
    "iban": ibans,
    "card": cards,
    "ip": ips,
    "phone": phones,
}
# A replacement can complete the form of another finding; two rounds are enough for all text seen so far.
_ROUNDS = 8
_KEY_END = "PRIVATE KEY"
# Expressions of Rust's engine, which has no look-around: each is true of every line with a finding.
_PRETESTS = {
    "email": r"[A-Za-z0-9_%+.-]@[A-Za-z0-9\\-]+\.[A-Za-z]",
    "ip": r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|[23][0-9A-Fa-f]{3}:[0-9A-Fa-f]{0,4}:",
    "phone": (
        r"\+\(?[1-9][0-9 ().-]{7}"
        rf"|(?i:{PHONE_WORD})[A-Za-z _-]{{0,24}}[^0-9A-Za-z\n]{{0,10}}[0-9][0-9 ().-]{{6}}"
    ),
    "card": r"[2-6][0-9]{3}[ -]?[0-9]{4,6}[ -]?[0-9]{4,5}",
    "iban": r"[A-Z]{2}[0-9]{2} ?[A-Z0-9]{4} ?[A-Z0-9]{4} ?[A-Z0-9]{3}",
    "secret": (
        r"AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|xapp-|hooks\.slack|AIza|GOCSPX-|sk-[A-Za-z0-9]"
        r"|[sr]k_(?:live|test)_|whsec_|eyJ|npm_[A-Za-z0-9]{36}|hf_[A-Za-z0-9]{30}|pypi-A|SG\."
        r"|://[^\s/:@]{0,64}:[^\s/@]{1,128}@"
    ),
}


def replace_pii(text: Any, kinds: Sequence[str] = KINDS) -> tuple[Any, Any]:
    """(`text` with each finding of `kinds` replaced, frame of one Int64 column a kind: findings a document).

    `text` is a polars Series of strings of any length; null stays null and counts 0. The same input gives
    the same output, and the output is unchanged when it is put in again.

    Raises:
        DataError: `kinds` names an unknown kind.
    """
    import polars as pl

    wrong = [kind for kind in kinds if kind not in KINDS]
    if wrong:
        raise DataError(
            f'"{wrong[0]}" is not a kind of personal data{did_you_mean(wrong[0], KINDS)}',
            got=", ".join(kinds),
            allowed=", ".join(KINDS),
        )
    counts = {kind: [0] * len(text) for kind in KINDS if kind in kinds}
    rows = pl.Series(range(len(text)), dtype=pl.UInt32)
    for _ in range(_ROUNDS):
        changed = _replace_once(text.gather(rows) if len(rows) < len(text) else text, rows, counts)
        if not changed:
            break
        new = [changed[row] for row in sorted(changed)]
        text = text.clone().scatter(sorted(changed), pl.Series(new, dtype=pl.String))
        # The lines are done; a change can complete a key that was none before.
        again = [row for row in sorted(changed) if "secret" in counts and _KEY_END in changed[row]]
        rows = pl.Series(again, dtype=pl.UInt32)
    return text, pl.DataFrame(counts, schema=dict.fromkeys(counts, pl.Int64))


def pii_counts(frame: Any) -> dict[str, dict[str, int]]:
    """Kind → documents with a finding, and findings, of the second result of `replace_pii`."""
    return {
        kind: {"documents": int((frame[kind] > 0).sum()), "findings": int(frame[kind].sum())}
        for kind in frame.columns
    }


def merge_counts(parts: Sequence[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """The sum of several results of `pii_counts`, kinds in the order of `KINDS`."""
    total: dict[str, Counter[str]] = {}
    for part in parts:
        for kind, numbers in part.items():
            total.setdefault(kind, Counter()).update(numbers)
    return {
        kind: {name: total[kind][name] for name in ("documents", "findings")}
        for kind in KINDS
        if kind in total
    }


def drop_mask(frame: Any) -> Any:
    """Boolean polars Series: the documents with a secret or a card number in the counts of `replace_pii`."""
    import polars as pl

    found = (pl.col(kind) > 0 for kind in ("secret", "card") if kind in frame.columns)
    return frame.with_columns(pl.any_horizontal(pl.lit(False), *found).alias("drop"))["drop"]


def _replace_once(text: Any, rows: Any, counts: dict[str, list[int]]) -> dict[int, str]:
    """Row → new text of the documents of `text` (numbered `rows`) with findings; `counts` grows by them."""
    import polars as pl

    changed: dict[int, str] = {}
    if "secret" in counts:
        text = _without_keys(text, rows, changed, counts["secret"])
    frame = pl.DataFrame({"row": rows, "text": text})
    kinds = [kind for kind in _FINDERS if kind in counts]
    pretests = {kind: pl.col("text").str.contains(_PRETESTS[kind]) for kind in kinds}
    is_candidate = pl.any_horizontal(pl.lit(False), *pretests.values())
    lines = frame.filter(is_candidate).select("row", pl.col("text").str.split("\n")).explode("text")
    lines = lines.with_row_index("place")
    edits: dict[int, dict[int, str]] = {}
    candidates = lines.filter(is_candidate).select("place", "row", "text", **pretests)
    for place, row, line, *passed in candidates.iter_rows():
        new, found = _replace_in_line(line, [*itertools.compress(kinds, passed)], kinds)
        if found:
            edits.setdefault(row, {})[place] = new
            for kind in found:
                counts[kind][row] += found[kind]
    touched = lines.filter(pl.col("row").is_in(list(edits))).group_by("row", maintain_order=True)
    for row, first, old in touched.agg(pl.col("place").first(), "text").iter_rows():
        new_lines = [*old]
        for place, line in edits[row].items():
            new_lines[place - first] = line
        changed[row] = "\n".join(new_lines)
    return changed


def _without_keys(text: Any, rows: Any, changed: dict[int, str], counts: list[int]) -> Any:
    """`text` without private key blocks; `changed` and `counts` take in the rows that had one."""
    places = text.str.contains(_KEY_END, literal=True).fill_null(False).arg_true()
    documents = []
    for row, document in zip(rows.gather(places), text.gather(places), strict=True):
        new, found = _put(document, key_blocks(document), "secret")
        if found:
            changed[row] = new
            counts[row] += found
        documents.append(new)
    return text.clone().scatter(places, documents) if documents else text


def _replace_in_line(line: str, first: Sequence[str], kinds: Sequence[str]) -> tuple[str, Counter[str]]:
    """(`line` without findings, their number by kind); `first` are the kinds whose pre-test it passed.

    A replacement can complete the form of another finding, so a changed line is searched for all again.
    """
    found: Counter[str] = Counter()
    for number in range(_ROUNDS):
        before = line
        for kind in kinds if number else first:
            line, count = _put(line, _FINDERS[kind](line), kind)
            found[kind] += count
        if line == before:
            break
    return line, +found


def _put(text: str, spans: Iterable[Span], kind: str) -> tuple[str, int]:
    """`text` with the spans replaced, the first of overlapping ones; their number."""
    parts: list[str] = []
    at = 0
    for start, end in sorted(spans):
        if start >= at:
            is_ipv6 = kind == "ip" and ":" in text[start:end]
            parts += [text[at:start], IPV6_PLACEHOLDER if is_ipv6 else PLACEHOLDERS[kind]]
            at = end
    return "".join([*parts, text[at:]]), len(parts) // 2
