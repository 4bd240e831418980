"""Token ids of real text: ours against `tokenizers`, the same vocabulary and texts, in one run.

    python bench/data/tokenise.py

CPU seconds of one thread. The texts are what came with Python and its packages.
"""

import argparse
import os

# One thread, set before the libraries start theirs.
os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "POLARS_MAX_THREADS": "1"}

import json
import random
import time

import numpy as np

from stepladder.data.sources.listing import list_files
from stepladder.data.sources.read import Reader
from stepladder.data.tokens.tokenizer import END_ID, END_OF_TEXT, Tokenizer, train_tokenizer

_TRAINED_BYTES = 10_000_000
_ODD = 1_000_000


def texts(wanted: int) -> list[str]:
    """About `wanted` bytes of documents, files in a shuffled order."""
    files = list_files(["python:installed"])
    random.Random(0).shuffle(files)
    found: list[str] = []
    num_bytes = 0
    for batch in Reader("text", 1 << 20).batches(files):
        found += batch["text"].to_list()
        num_bytes += batch["text"].str.len_bytes().sum()
        if num_bytes >= wanted:
            break
    return found


def main() -> None:
    """Print megabytes a second, equal documents, and the seconds of texts that are hard to cut."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    documents = texts(arguments.megabytes * 1_000_000)
    num_bytes = sum(len(text.encode()) for text in documents)
    print(f"{len(documents)} documents, {num_bytes / 1e6:.1f} MB")
    trained, size = [], 0
    for text in documents[::7]:
        trained.append(text)
        size += len(text.encode())
        if size >= _TRAINED_BYTES:
            break
    for vocab_size in (4096, 32768):
        start = time.process_time()
        tokenizer = Tokenizer(json.loads(train_tokenizer(trained, vocab_size)))
        print(
            f"\nvocabulary {tokenizer.vocab_size}, trained on {size / 1e6:.1f} MB "
            f"in {time.process_time() - start:.1f} s"
        )
        speed(tokenizer, documents, num_bytes, arguments.repeats)
    hard(tokenizer)


def speed(tokenizer: Tokenizer, documents: list[str], num_bytes: int, repeats: int) -> None:
    """Both encoders in turns; ids compared document by document."""
    slow, fast, different = [], [], 0
    for repeat in range(repeats):
        start = time.process_time()
        ids, lengths = tokenizer.encode_many(documents)
        fast.append(num_bytes / (time.process_time() - start) / 1e6)
        ends = np.cumsum(lengths)
        spent = 0.0
        for first in range(0, len(documents), 500):
            batch = documents[first : first + 500]
            start = time.process_time()
            theirs = tokenizer._slow.encode_batch(batch, add_special_tokens=False)
            rows = [encoding.ids for encoding in theirs]
            spent += time.process_time() - start
            if repeat == 0:
                for place, row in enumerate(rows, first):
                    ours = ids[ends[place] - lengths[place] : ends[place]]
                    different += not np.array_equal(ours, [*row, END_ID])
        slow.append(num_bytes / spent / 1e6)
    print(f"  bytes per token {num_bytes / (len(ids) - len(documents)):.2f}")
    print(
        f"  tokenizers {_spread(slow)} MB/s   ours {_spread(fast)} MB/s   ratio {max(fast) / max(slow):.1f}"
    )
    print(f"  documents whose ids differ: {different}")


def _spread(values: list[float]) -> str:
    return f"{sorted(values)[len(values) // 2]:.1f} ({min(values):.1f} to {max(values):.1f})"


def hard(tokenizer: Tokenizer) -> None:
    """Texts of 1 MB without an end to their words."""
    rng = random.Random(0)
    cases = {
        "blanks": " " * _ODD,
        "blanks, then a letter": " " * _ODD + "x",
        "newlines": "\n" * _ODD,
        "one letter": "a" * _ODD,
        "random letters": "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=_ODD)),
        "random capitals, digits, signs": "".join(rng.choices("ABCDwxyz0123+/", k=_ODD)),
        "one sign": "=" * _ODD,
        "random signs": "".join(rng.choices("!#$%&()*+,-./:;<=>?@[]^_{|}~", k=_ODD)),
        "digits": "".join(rng.choices("0123456789", k=_ODD)),
        "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467" * (_ODD // 18),
        "combining marks": "\u0301" * (_ODD // 2),
        "Chinese": "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(_ODD // 3)),
        "end-of-text strings": END_OF_TEXT * (_ODD // len(END_OF_TEXT)),
    }
    print("\n1 MB of                         ours s  tokenizers s  ids equal")
    for name, text in cases.items():
        start = time.process_time()
        ours = tokenizer.encode_array(text)
        middle = time.process_time()
        theirs = tokenizer._slow.encode(text, add_special_tokens=False).ids
        end = time.process_time()
        print(f"{name:30s} {middle - start:7.2f} {end - middle:13.2f}  {np.array_equal(ours, theirs)}")


if __name__ == "__main__":
    main()
