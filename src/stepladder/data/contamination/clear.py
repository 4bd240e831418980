"""A split corpus and the evaluation sets in; training text without their examples, and its n-grams, out."""

from pathlib import Path
from typing import Any

from stepladder.data.chain import Job
from stepladder.data.contamination.decontaminate import INDEX_FOLDER, EvaluationIndex, merge, summary
from stepladder.data.contamination.ngrams import finish_index, ranges_for
from stepladder.data.contamination.steps import EVALUATION_FILE
from stepladder.data.files import part_names
from stepladder.errors import DataError
from stepladder.store import read_json


def clear_training(job: Job, out: Path, index: EvaluationIndex | None) -> dict[str, Any]:
    """Mark the training documents that hold evaluation examples; write OUT/ngrams of those that stay.

    The result has `contamination`, the summary by set (empty without sets), and `ngrams`, what was written.

    Raises:
        DataError: no training document is left.
    """
    if index is not None and not (job.work / EVALUATION_FILE).exists():
        index.save(job.work / EVALUATION_FILE)
    results = job.over_parts("contamination", compare=index is not None)
    if not any(result["documents"] for result in results):
        raise DataError(
            "no training text is left",
            got=f"{sum(result['removed'] for result in results)} training documents, all with examples of "
            "the evaluation sets",
            allowed="more text, or other evaluation sets",
            next_command="stepladder data ... --evaluation FILE",
        )
    count = ranges_for(sum(result["keys"] for result in results))
    folder = out / INDEX_FOLDER
    merged = job.over_ranges("ngrams", count, out=str(folder))
    meta = finish_index(folder, count, sum(result["keys"] for result in merged))
    told: dict[str, Any] = {}
    if index is not None:
        tallies = (read_json(job.work / "contamination" / f"{name}.tally") for name in part_names(job.work))
        told = summary(merge(tallies), index)
    return {"contamination": told, "ngrams": meta}
