"""A tuned folder and JSON lines with "text" in; the same lines with predicted labels out (torch)."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from stepladder.tune.batches import Encoded
from stepladder.tune.encode import encode_texts
from stepladder.tune.heads import classifier_folder, load_classifier
from stepladder.tune.objective import predict_logits
from stepladder.tune.rows import parse_rows


def predict_lines(folder: Path, lines: Sequence[bytes], name: str = "standard input") -> Iterator[str]:
    """One JSON line out for each line in that is not empty; its own keys are kept.

    All lines are read and checked before the first is answered.

    Raises:
        TaskError: bad rows, listed up to ten; or the folder holds no classifier.
    """
    examples = parse_rows(lines, name, labelled=False)
    model, labels = load_classifier(folder)
    texts = encode_texts(
        classifier_folder(folder), [e.text for e in examples], model.network.shape.context_tokens
    )
    encoded = Encoded(texts=texts, labels=np.full(len(texts), -1, dtype=np.int64))
    chances = torch.softmax(predict_logits(model, encoded), dim=-1)
    sure, numbers = chances.max(dim=-1)
    rows = (json.loads(line.decode("utf-8-sig")) for line in lines if line.strip())
    for row, number, chance in zip(rows, numbers.tolist(), sure.tolist(), strict=True):
        answer = {**row, "predicted": labels[number], "probability": round(chance, 6)}
        yield json.dumps(answer, ensure_ascii=False)
