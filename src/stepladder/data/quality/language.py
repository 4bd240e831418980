"""Texts and their domains in; the language of each out: a code of ISO 639, "code", or "unknown".

The model is py3langid's (naive Bayes over the byte sequences that an automaton finds). Its automaton is
walked here for all documents of a batch at once, a byte at a time, where py3langid walks it for one document
after the other in Python: the same labels at several times the speed (`python bench/data/language.py`).
"""

import functools
from typing import Any

import numpy as np

from stepladder.errors import MissingExtraError, StoreError

CODE, UNKNOWN = "code", "unknown"
# py3langid is right for 98.1 % of texts of 120 characters and 99.2 % of 500 in 79 languages (99.8 and 100 %
# with Bosnian, Croatian and Serbian, Danish and Norwegian, Malay and Indonesian taken as one each); below 40
# letters it guesses. From .6 on, 99.5 % of what is named at 120 characters is right and 3.7 % are unknown; at
# .5 it is 98.7 % for 1.3 % unknown, at .7 99.9 % for 6.4 %. Measured by bench/data/language.py.
LANGUAGE_CHARS = 500
LANGUAGE_LETTERS = 40
LANGUAGE_CONFIDENCE = 0.6
# Labels of py3langid for text without a language, and for one that it cannot tell.
_NO_LANGUAGE = ("zxx", "und")
# Documents that are walked at once: 1,024 of 500 bytes take 8 MB of positions.
_BLOCK = 1024


def languages(text: Any, domain: Any) -> Any:
    """The language of each document, from its first 500 characters.

    Args:
        text: a polars series of strings.
        domain: a polars series of the same length; documents of the domain "code" are not looked at.

    Returns:
        A polars series of strings: "code"; "unknown" below 40 letters, below a confidence of
        `LANGUAGE_CONFIDENCE` or where the model says that it is no language; else the language's code.

    Raises:
        StoreError: the model cannot be unpacked into the folder for temporary files.
    """
    import polars as pl

    is_code = (domain == CODE).to_numpy()
    labels = np.full(len(text), UNKNOWN, dtype=object)
    labels[is_code] = CODE
    heads = text.filter(pl.Series(~is_code)).str.slice(0, LANGUAGE_CHARS)
    places = np.flatnonzero(~is_code)
    enough = has_letters(heads)
    if enough.any():
        named, confidence = classify(heads.filter(pl.Series(enough)))
        is_sure = (confidence >= LANGUAGE_CONFIDENCE) & ~np.isin(named, _NO_LANGUAGE)
        labels[places[enough][is_sure]] = named[is_sure]
    return pl.Series("language", labels.tolist(), dtype=pl.String)


def has_letters(text: Any) -> np.ndarray:
    """Whether each text has `LANGUAGE_LETTERS` letters (Unicode's category L)."""
    enough = np.zeros(len(text), dtype=bool)
    # Most texts show enough of them at once.
    for part in (text.str.slice(0, 3 * LANGUAGE_LETTERS), text):
        rest = np.flatnonzero(~enough)
        if len(rest):
            counted = part.gather(rest).str.replace_all(r"\P{L}+", "").str.len_chars()
            enough[rest] = counted.to_numpy() >= LANGUAGE_LETTERS
    return enough


def classify(text: Any) -> tuple[np.ndarray, np.ndarray]:
    """py3langid's label of each text of a polars series (strings), and its probability from 0 to 1."""
    return _model().classify(_bytes(text))


def _bytes(text: Any) -> list[bytes]:
    """UTF-8 of each text in NFC, and in small letters where it has capitals only, as py3langid reads it."""
    import polars as pl

    is_wide = (text.str.len_bytes() != text.str.len_chars()).to_numpy()
    lowered = ~text.str.contains(r"[\p{Lowercase}\p{Lt}]")
    values = text.to_list()
    for place in lowered.arg_true().to_list():
        if values[place].isupper():
            values[place] = values[place].lower()
    series = pl.Series(values, dtype=pl.String)
    if is_wide.any():
        series = series.zip_with(pl.Series(~is_wide), series.str.normalize("NFC"))
    return series.cast(pl.Binary).to_list()


class _Model:
    def __init__(self, identifier: Any) -> None:
        self._labels = np.array(identifier.nb_classes, dtype=object)
        self._weights = np.asarray(identifier.nb_ptc, dtype=np.float32)
        self._prior = np.asarray(identifier.nb_pc, dtype=np.float32)
        rows = np.asarray(identifier.tk_row, dtype=np.int32) << 8
        self._state = np.asarray(identifier.tk_nextmove)
        # Where the row of the next state begins, by place in the table: one look-up a byte instead of two.
        self._next_row = rows[self._state]
        self._feature = np.asarray(identifier.tk_output, dtype=np.int32)
        self._first_row = int(rows[0])
        first: dict[str, int] = {}
        # Two scripts of one language are two columns.
        self._aliases = [
            (first[label], place)
            for place, label in enumerate(identifier.nb_classes)
            if first.setdefault(label, place) != place
        ]

    def classify(self, texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        sizes = np.array([len(text) for text in texts], dtype=np.int64)
        order = np.argsort(-sizes, kind="stable")
        scores = np.empty((len(texts), len(self._labels)), dtype=np.float32)
        for start in range(0, len(texts), _BLOCK):
            block = order[start : start + _BLOCK]
            scores[block] = self._scores([texts[place] for place in block], sizes[block])
        # The temperature with which py3langid keeps probabilities comparable between lengths.
        scores /= np.sqrt(np.maximum(sizes, 1))[:, None].astype(np.float32)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        for first, second in self._aliases:
            scores[:, first] += scores[:, second]
            scores[:, second] = 0
        best = scores.argmax(axis=1)
        return self._labels[best], scores[np.arange(len(texts)), best]

    def _scores(self, texts: list[bytes], sizes: np.ndarray) -> np.ndarray:
        """Log posterior of each class, (texts, classes); texts come longest first."""
        from scipy.sparse import csr_array

        documents, features, counts = self._features(texts, sizes)
        bounds = np.searchsorted(documents, np.arange(len(texts) + 1))
        logs = np.log1p(counts.astype(np.float32))
        found = csr_array((logs, features, bounds), shape=(len(texts), len(self._weights)))
        scores = found @ self._weights + self._prior
        scores[np.diff(bounds) == 0] = 0  # a text without any known sequence is equally of all classes
        return scores

    def _features(self, texts: list[bytes], sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(document, feature, how often), sorted by document and feature."""
        longest = int(sizes[0])
        padded = np.frombuffer(b"".join(text.ljust(longest, b"\0") for text in texts), dtype=np.uint8)
        by_byte = np.ascontiguousarray(padded.reshape(len(texts), longest).T)
        alive = len(texts) - np.searchsorted(sizes[::-1], np.arange(longest), side="right")
        places = np.empty(int(sizes.sum()), dtype=np.int64)
        documents = np.empty(len(places), dtype=np.int64)
        numbers = np.arange(len(texts))
        rows = np.full(len(texts), self._first_row, dtype=np.int32)
        start = 0
        for letters, count in zip(by_byte, alive.tolist(), strict=True):
            stop = start + count
            now = places[start:stop]
            np.add(rows[:count], letters[:count], out=now)
            np.take(self._next_row, now, out=rows[:count], mode="clip")
            documents[start:stop] = numbers[:count]
            start = stop
        features = self._feature[self._state[places]]
        found = features >= 0
        keys, counts = np.unique(documents[found] * len(self._weights) + features[found], return_counts=True)
        return keys // len(self._weights), keys % len(self._weights), counts


@functools.cache
def _model() -> _Model:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise MissingExtraError("telling languages apart", "data") from error
    try:
        return _Model(LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True))
    except OSError as error:  # it unpacks its model into the folder for temporary files
        raise StoreError(
            "cannot unpack the language model", got=error.strerror or str(error), next_command="df -h /tmp"
        ) from error
