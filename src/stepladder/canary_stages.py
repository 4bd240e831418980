"""The planted lines of a climb: how well each rung knows them, what is forecast of the target, how it came.

Two stages beside those of `stages.py`, for a corpus with canaries. All is kept in canary_exposure.json of the
climb's folder: exposures in bits by the copies that were planted, and the forecast, frozen before the target
starts.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stepladder.data.canaries import CANARIES_FILE, read_canaries
from stepladder.errors import LawError, StoreError, TrainError
from stepladder.ladder.collect import usable
from stepladder.launch.environment import worker_environment
from stepladder.laws.exposure import CHANCE_BITS, Memory, forecast_exposure
from stepladder.models.count import count_params
from stepladder.records import Corpus, Layout, Observation, Plan, Run
from stepladder.report.parts import EXPOSURE_FILE
from stepladder.stages import Climb
from stepladder.store import fingerprint, read_json, write_json
from stepladder.train.metrics import METRICS_FILE

TARGET = "target@1"


def foretell_exposure(climb: Climb, corpus: Corpus, plan: Plan, observations: Sequence[Observation]) -> None:
    """Rank the planted lines by every rung and freeze what the target will keep of them.

    Nothing where none was planted. Once the target has started nothing is forecast.
    """
    if not (climb.folder / "corpus" / CANARIES_FILE).exists():
        return
    if climb.brief.objective == "masked":
        climb.say("canaries", "not ranked: an encoder does not continue a text")
        return
    path, rows = climb.folder / EXPOSURE_FILE, usable(observations)
    kept = read_json(path) if path.exists() else {"chance_bits": CHANCE_BITS, "runs": {}}
    missing = [row for row in rows if row.run not in kept["runs"]]
    found = _rank(climb, [climb.folder / "ladder" / f"{row.run}@1" for row in missing])
    for row, bits in zip(missing, found, strict=True):
        kept["runs"][row.run] = _entry(row.params, row.tokens, bits, corpus)
    if "forecast" not in kept:
        if (climb.folder / TARGET / METRICS_FILE).exists():
            kept["forecast"] = {"refused": "the target had started before the rungs were ranked"}
        else:
            kept["forecast"] = _forecast(kept["runs"], plan, corpus, len(read_canaries(_text(climb))[0]))
    write_json(path, kept)
    climb.say("canaries", _told(kept["forecast"]))


def tell_exposure(climb: Climb, corpus: Corpus, run: Run) -> None:
    """Rank the planted lines by the target, beside what was forecast.

    Raises:
        StoreError: the forecast was changed after it was frozen.
    """
    path = climb.folder / EXPOSURE_FILE
    if not path.exists() or run.status != "ok":
        return
    kept = read_json(path)
    stamp = {key: value for key, value in kept["forecast"].items() if key != "fingerprint"}
    if "fingerprint" in kept["forecast"] and kept["forecast"]["fingerprint"] != fingerprint(stamp):
        raise StoreError(
            f"the forecast in {path} was changed after it was frozen",
            got=kept["forecast"]["fingerprint"],
            next_command=f"mv {path} {path}.changed",
        )
    if "target" not in kept:
        (bits,) = _rank(climb, [climb.folder / TARGET])
        kept["target"] = _entry(run.params, run.tokens, bits, corpus)
        write_json(path, kept)
    means = {copies: sum(bits) / len(bits) for copies, bits in kept["target"]["bits"].items()}
    told = ", ".join(f"{bits:.1f} at {copies}" for copies, bits in means.items())
    climb.say("canaries", f"measured {told} copies; {CHANCE_BITS:.1f} bits are chance")


def _entry(
    params: float, tokens: float, bits: Mapping[str, Sequence[float]], corpus: Corpus
) -> dict[str, Any]:
    """What is kept of a run. It meets copies in proportion to how often it reads the text."""
    passes = tokens / corpus.train.tokens
    met = {copies: int(copies) * passes for copies in bits}
    return {"params": params, "tokens": tokens, "met": met, "bits": bits}


def _forecast(runs: Mapping[str, Any], plan: Plan, corpus: Corpus, canaries: int) -> dict[str, Any]:
    """An interval for each number of copies, stamped; or why there is none."""
    groups = [
        Memory(params=run["params"], met=run["met"][copies], bits=tuple(bits))
        for run in runs.values()
        for copies, bits in run["bits"].items()
    ]
    copies = sorted({int(count) for run in runs.values() for count in run["bits"]})
    params, passes = count_params(plan.shape).total, plan.tokens / corpus.train.tokens
    try:
        said = {
            str(count): asdict(forecast_exposure(groups, params, count * passes, canaries // len(copies)))
            for count in copies
        }
    except LawError as error:
        return {"refused": f"{error.wrong} ({error.got})"}
    value = {"run": plan.name, "params": params, "tokens": plan.tokens, "bits": said}
    return {**value, "fingerprint": fingerprint(value)}


def _told(forecast: Mapping[str, Any]) -> str:
    if "refused" in forecast:
        return f"no forecast: {forecast['refused']}"
    copies, said = list(forecast["bits"].items())[-1]
    return (
        f"{said['value']:.1f} bits of exposure at {copies} copies in the target (80 %: {said['low80']:.1f} "
        f"to {said['high80']:.1f}); frozen as {forecast['fingerprint']}"
    )


def _text(climb: Climb) -> Path:
    return climb.folder / "corpus"


def _rank(climb: Climb, folders: Sequence[Path]) -> list[dict[str, list[float]]]:
    """Bits of every planted line by copies, of each run; in a process of its own, which may load torch."""
    if not folders:
        return []
    words = [sys.executable, "-m", "stepladder.eval.canaries", "--corpus", str(_text(climb))]
    done = subprocess.run(
        [*words, *map(str, folders)],
        env=worker_environment(Layout(threads=1)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise TrainError(
            "the planted lines could not be ranked",
            got=f"exit code {done.returncode}",
            next_command=f"stepladder probe {folders[0]} --probe canaries",
        )
    return json.loads(done.stdout)
