"""Text of installed packages in; speed and verdicts of our quality rules and of datatrove's, paired, out.

    python bench/data/rules.py --documents 1000

Needs datatrove and spaCy. Ours are all verdicts of all rules in batches of 500 documents; datatrove's are its
four filters as they stand, each on every document. The table gives for each published rule the share of
documents that break it, and the share where our verdict differs from that of datatrove's class: with our
words given to it, and with its own (spaCy's).
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("POLARS_MAX_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "data"))

import polars as pl
from test_rules import own_verdicts, peer_filters, peer_verdicts, real_texts

from stepladder.data.quality.rules import broken, chosen, verdicts
from stepladder.data.sources.read import BATCH_DOCUMENTS


def main() -> int:
    """Print both speeds and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument(
        "--timed-documents", type=int, default=500, help="documents that datatrove is timed on"
    )
    options = parser.parse_args()
    texts = real_texts(options.documents)
    print(f"{len(texts):,} documents, {num_bytes(texts) / 1e6:.1f} MB")
    speeds(texts, texts[:: max(len(texts) // options.timed_documents, 1)])
    table(texts)
    return 0


def speeds(texts: list[str], part: list[str]) -> None:
    """Time ours on all texts and on the part that datatrove gets."""
    frame = pl.DataFrame({"text": texts, "domain": ["prose"] * len(texts)})
    verdicts(frame[:10])  # the tables of code points and of powers are made once
    usual = chosen()
    print("MB a CPU second")
    for name, work in (("all verdicts", verdicts), ("usual rules", lambda batch: broken(batch, usual))):
        started = time.process_time()
        for batch in frame.iter_slices(BATCH_DOCUMENTS):
            work(batch)
        print(f"  ours, {name:<14}{num_bytes(texts) / 1e6 / (time.process_time() - started):8.2f}")
    from datatrove.data import Document
    from datatrove.pipeline import filters

    classes = (
        *(filters.GopherQualityFilter, filters.GopherRepetitionFilter),
        *(filters.C4QualityFilter, filters.FineWebQualityFilter),
    )
    peers = [peer() for peer in classes]
    peers[0].filter(Document(text="Load the words of the language.", id=""))
    started = time.process_time()
    for text in part:
        for peer in peers:
            peer.filter(Document(text=text, id=""))
    theirs = num_bytes(part) / 1e6 / (time.process_time() - started)
    started = time.process_time()
    own_verdicts(part)
    ours = num_bytes(part) / 1e6 / (time.process_time() - started)
    print(
        f"  on {len(part)} documents, {num_bytes(part) / 1e6:.1f} MB: ours {ours:.2f}, datatrove {theirs:.2f}"
    )


def table(texts: list[str]) -> None:
    """Print shares and differences of every published rule."""
    ours = own_verdicts(texts)
    equal_words = peer_verdicts(texts, own_words=True)
    spacy_words = peer_verdicts(texts, own_words=False)
    print(f"{'rule':<34}{'ours %':>8}{'datatrove %':>13}{'differ %, our words':>21}{'spaCy words':>13}")
    for name in peer_filters():
        unlike = [(ours[name] != other[name]).mean() for other in (equal_words, spacy_words)]
        shares = [ours[name].mean(), spacy_words[name].mean()]
        values = [100 * float(value) for value in (*shares, *unlike)]
        print(f"{name:<34}{values[0]:>8.2f}{values[1]:>13.2f}{values[2]:>21.2f}{values[3]:>13.2f}")


def num_bytes(texts: list[str]) -> int:
    """Bytes of all texts together."""
    return sum(len(text.encode()) for text in texts)


if __name__ == "__main__":
    raise SystemExit(main())
