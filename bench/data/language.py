"""Language of short texts: ours against plain py3langid, on Django's translations, in one run.

    pip download --no-deps django
    python bench/data/language.py django-*.whl

The wheel holds the same messages in about a hundred languages, translated by people. Those of one language
are shuffled, joined and cut to 120 and to 500 characters.
"""

import argparse
import os

# One thread, set before the libraries start theirs.
os.environ |= {"POLARS_MAX_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

import random
import re
import time
import zipfile
from collections import Counter, defaultdict

import numpy as np
import polars as pl
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from stepladder.data.quality import language as ours

_MESSAGE = re.compile(r'^msgid ((?:"(?:[^"\\]|\\.)*"\s*)+)^msgstr ((?:"(?:[^"\\]|\\.)*"\s*)+)', re.MULTILINE)
_PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%[sd]|\{[^}]*\}|<[^>]*>|&\w+;")
_PIECE = re.compile(r'"((?:[^"\\]|\\.)*)"')
_LENGTHS = (120, 500)
_DOCUMENTS_EACH = 60
_LEAST_MESSAGES = 100
# Django's name of a language → py3langid's.
_NAMES = {"nb": "no"}
# Written alike: a text of one is often a text of the other.
_ALIKE = ({"bs", "hr", "sr"}, {"nn", "no", "da"}, {"id", "ms"})


def messages(wheel: str) -> dict[str, list[str]]:
    """Language code → its translated messages."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith("/LC_MESSAGES/django.po"):
                code = name.split("/")[-3].split("_")[0]
                code = _NAMES.get(code, code)
                for source, target in _MESSAGE.findall(archive.read(name).decode()):
                    # The English catalogue is empty: its messages are the keys. A file's head has no key.
                    text = _plain(source if code == "en" else target)
                    if text and _plain(source) and (code == "en" or text != _plain(source)):
                        found[code][text] = None
    return {code: list(texts) for code, texts in sorted(found.items()) if len(texts) >= _LEAST_MESSAGES}


def _plain(quoted: str) -> str:
    joined = "".join(_PIECE.findall(quoted)).replace(r"\n", " ").replace(r"\"", '"')
    return " ".join(_PLACEHOLDER.sub(" ", joined).split())


def documents(texts: list[str], length: int, rng: random.Random) -> list[str]:
    """Texts of `length` characters, each of messages in a random order."""
    made = []
    for _ in range(_DOCUMENTS_EACH):
        chosen = rng.sample(texts, len(texts))
        joined = " ".join(chosen[:400])
        if len(joined) >= length:
            made.append(joined[:length])
    return made


def seconds(function, repeats: int = 3):
    """(least CPU seconds of several calls, result)."""
    least = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        least = min(least, time.process_time() - start)
    return least, result


def main() -> None:
    """Print accuracy, speed and what each threshold costs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("wheel", help="a wheel of Django")
    wheel = parser.parse_args().wheel
    start = time.process_time()
    theirs = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    loaded = time.process_time()
    ours._model()
    print(f"load: py3langid {loaded - start:.2f} s, ours {time.process_time() - loaded:.2f} s (CPU)")
    catalogues = messages(wheel)
    known = {code: texts for code, texts in catalogues.items() if code in theirs.labels}
    print(f"{len(known)} languages that the model knows; unknown to it: {set(catalogues) - set(known)}")
    for length in _LENGTHS:
        rng = random.Random(length)
        labelled = [(code, text) for code, texts in known.items() for text in documents(texts, length, rng)]
        rng.shuffle(labelled)
        truth = np.array([code for code, _ in labelled], dtype=object)
        texts = [text for _, text in labelled]
        compare(theirs, truth, texts, length)
        strangers = [
            text
            for code in sorted(set(catalogues) - set(known))
            for text in documents(catalogues[code], length, rng)
        ]
        thresholds(truth, texts, strangers)


def compare(theirs, truth, texts, length) -> None:
    """Accuracy and speed of both on the same texts."""
    slow, answers = seconds(lambda: [theirs.classify(text) for text in texts])
    names = np.array([name for name, _ in answers], dtype=object)
    series = pl.Series(texts)
    domain = pl.repeat("prose", len(series), eager=True)
    fast, (labels, confidence) = seconds(lambda: ours.classify(series))
    whole, said = seconds(
        lambda: pl.concat(
            [
                ours.languages(series[at : at + 500], domain[at : at + 500])
                for at in range(0, len(series), 500)
            ]
        )
    )
    said = np.array(said.to_list(), dtype=object)
    is_known = said != ours.UNKNOWN
    alike = np.array([group(a) == group(b) for a, b in zip(truth, labels, strict=True)])
    others = max(abs(a - b) for (_, a), b in zip(answers, confidence.tolist(), strict=True))
    print(f"\n{length} characters, {len(texts)} documents")
    print(f"  py3langid       accuracy {np.mean(names == truth):.4f}   {len(texts) / slow:8.0f} documents/s")
    print(f"  ours, classify  accuracy {np.mean(labels == truth):.4f}   {len(texts) / fast:8.0f} documents/s")
    print(f"  ours, languages in batches of 500         {len(texts) / whole:8.0f} documents/s")
    print(f"  labels that differ {np.sum(names != labels)}, largest difference of confidence {others:.1e}")
    print(f"  accuracy with look-alikes taken as one {np.mean(alike):.4f}")
    right = (said == truth)[is_known].mean()
    print(f"  said unknown {1 - is_known.mean():.4f}, accuracy among the known {right:.4f}")
    wrong = Counter(zip(truth[labels != truth], labels[labels != truth], strict=True))
    print("  most often wrong: " + ", ".join(f"{a} as {b} {n}" for (a, b), n in wrong.most_common(8)))


def group(code: str) -> str:
    """The language, or the first of those that are written alike."""
    return next((min(codes) for codes in _ALIKE if code in codes), code)


def thresholds(truth, texts, strangers) -> None:
    """Share said unknown and accuracy among the rest, by threshold."""
    labels, confidence = ours.classify(pl.Series(texts))
    _, doubt = ours.classify(pl.Series(strangers, dtype=pl.String)) if strangers else (None, np.zeros(0))
    print("  threshold  said unknown  accuracy among the known  foreign language named")
    for threshold in (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        sure = confidence >= threshold
        named = np.mean(doubt >= threshold) if len(doubt) else float("nan")
        right = (labels == truth)[sure].mean()
        print(f"  {threshold:9.1f}  {1 - sure.mean():12.4f}  {right:24.4f}  {named:22.4f}")


if __name__ == "__main__":
    main()
