"""A drawn sample of training texts in; a tokenizer trained on it and whether tiktoken agrees with it, out."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stepladder.data.files import part_names, read_frame
from stepladder.data.tokens.tokenizer import TOKENIZER_FILE, check_equal, load_own_tokenizer, train_tokenizer
from stepladder.data.tokens.vocabulary import measure_vocabulary
from stepladder.store import write_text

_CHECKED_DOCUMENTS, _CHECKED_BYTES = 300, 500_000


def vocabulary_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The sample → a tokenizer of `vocab_size`, or (0) the largest one and its bytes per token by size."""
    work = Path(arguments["folder"])
    texts = list(sampled(work, arguments["cuts"]))
    path = work / "vocabulary" / TOKENIZER_FILE
    if arguments["vocab_size"]:
        write_text(path, train_tokenizer(texts, arguments["vocab_size"]))
        return {"fast": is_equal(path, texts)}
    curve = measure_vocabulary(texts)
    write_text(path, curve.tokenizer)
    return {"bytes_per_token": list(curve.bytes_per_token.items())}


def sampled(work: Path, cuts: Mapping[str, int]) -> Iterator[str]:
    """The drawn texts whose hash is at most that of their source in `cuts`, in the order of their ids."""
    for name in part_names(work):
        for order, source, text in read_frame(work / "sample" / f"{name}.text").iter_rows():
            if order <= cuts[source]:
                yield text


def is_equal(tokenizer: Path, texts: Sequence[str]) -> bool:
    """Whether tiktoken gives the ids that `tokenizers` gives, on documents from all over the sample."""
    checked, held = [], 0
    for text in texts[:: max(1, len(texts) // _CHECKED_DOCUMENTS)]:
        if held < _CHECKED_BYTES:
            checked.append(text[:_CHECKED_BYTES])
            held += len(text)
    return check_equal(load_own_tokenizer(tokenizer), checked) == 0
