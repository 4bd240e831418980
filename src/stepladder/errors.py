"""The tree of user errors; each says what was wrong, what we got, what is allowed and what to type next.

StepladderError
├── BriefError          stepladder.toml cannot be read as a Brief (all problems at once)
├── DataError           a source cannot be read or leaves nothing to train on
├── StoreError          an artefact on disk is damaged
│   └── FingerprintError   same name, other inputs: shows the fields that differ
├── LawError            observations cannot be read or fitted
├── PlanError           no plan meets the limits, or hardware is unknown
├── TrainError          a run cannot start or go on
├── TaskError           labelled data for tune or eval is wrong
├── ExportError         a checkpoint cannot be written in the asked format
└── MissingExtraError   a feature needs `pip install stepladder[extra]`
"""

import difflib
from collections.abc import Iterable


class StepladderError(Exception):
    """Base of all errors that are the user's to mend; the CLI prints them without a traceback (exit 2)."""

    def __init__(self, wrong: str, *, got: str = "", allowed: str = "", next_command: str = "") -> None:
        self.wrong, self.got, self.allowed, self.next_command = wrong, got, allowed, next_command
        lines = [wrong]
        lines += [f"  got:     {got}"] if got else []
        lines += [f"  allowed: {allowed}"] if allowed else []
        lines += [f"  next:    {next_command}"] if next_command else []
        super().__init__("\n".join(lines))


class BriefError(StepladderError):
    """The brief has problems; `wrong` lists all of them."""


class DataError(StepladderError):
    """A source cannot be read, or nothing is left of it."""


class StoreError(StepladderError):
    """A file on disk is missing, truncated or not what its name says."""


class FingerprintError(StoreError):
    """The same name holds the result of other inputs."""


class LawError(StepladderError):
    """The observations cannot be read or fitted."""


class PlanError(StepladderError):
    """No plan meets the limits, or an input of the plan is unknown."""


class TrainError(StepladderError):
    """A training run cannot start or go on."""


class TaskError(StepladderError):
    """Labelled data is wrong; rows are listed up to ten."""


class ExportError(StepladderError):
    """A checkpoint cannot be written in the asked format."""


class MissingExtraError(StepladderError):
    """A library of an optional extra is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs packages that are not installed",
            next_command=f"pip install 'stepladder[{extra}]'",
        )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' (did you mean "tokens"?)' when something close is known, else ''."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f' (did you mean "{close[0]}"?)' if close else ""
