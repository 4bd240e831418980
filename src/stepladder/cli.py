"""Command-line words in, an exit code out: every verb by its step of the climb, imported when it is used.

Exit codes: 0 done, 1 a bug of ours (with traceback), 2 a user error, 75 stopped half-way (run it again),
130 interrupted.
"""

import os
import sys
from collections.abc import Sequence

from cyclopts import App, Group
from cyclopts.exceptions import CycloptsError

from stepladder import __version__
from stepladder.errors import StepladderError

EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_RESUME = 2, 130, 75

# (group, verbs); a verb is stepladder.verbs.<verb>:<verb>, its one line of help stands here so that
# `stepladder --help` imports none of them.
_VERBS: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "Prepare",
        {
            "init": "Write a commented stepladder.toml for this machine.",
            "doctor": "Measure this machine and say what is missing.",
            "data": "Turn text into clean, deduplicated, tokenised shards and a card.",
        },
    ),
    (
        "Climb",
        {
            "ladder": "Train small models that a law can be fitted to.",
            "fit": "Fit a scaling law to runs (ours or yours) and forecast.",
            "plan": "Choose size, tokens, batch and layout for the budget, with reasons.",
            "train": "Train what a plan says; start or continue.",
            "report": "Write one HTML page: forecast, outcome, cost, data, tasks.",
        },
    ),
    (
        "Use",
        {
            "tune": "Fine-tune on labelled examples, beside cheap baselines.",
            "eval": "Measure held-out loss or score predictions.",
            "probe": "Look for memorised text and for leanings between groups of people.",
            "export": "Write a folder that transformers loads.",
        },
    ),
    (
        "All of it",
        {
            "climb": "From a brief to a scored, tuned and exported model.",
            "demo": "Climb on text that is already on this machine.",
        },
    ),
    (
        "Smaller doors",
        {
            "forecast": "List and score frozen forecasts.",
            "optimum": "Size and tokens for a budget or a loss, by a fitted law.",
            "rates": "Learning rate and batch for a run, moved by own sweeps.",
            "mix": "Choose the mixture of domains by small runs.",
            "complete": "Let a trained model continue a text.",
            "chat": "Talk with a trained model, line by line.",
            "predict": "Label JSON lines with a tuned model.",
            "calibrate": "Time a few steps near a plan, for its forecasts.",
        },
    ),
)
# Verbs with commands below them: an `App` of their own, named `app`.
_HAVE_COMMANDS = ("data",)


def build_app() -> App:
    """The application with all verbs registered by name only."""
    app = App(
        name="stepladder",
        help="From your corpus, hardware and budget to a trained language model.",
        version=__version__,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for order, (title, verbs) in enumerate(_VERBS):
        group = Group(title, sort_key=order)
        for step, (verb, text) in enumerate(verbs.items()):
            name = "app" if verb in _HAVE_COMMANDS else verb
            target = f"stepladder.verbs.{verb}:{name}"
            app.command(target, name=verb, help=text, group=group, sort_key=step)
    return app


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code; user errors are printed without a traceback."""
    # Before numpy is loaded: matrices of the fits are small, and two BLAS threads waiting for each other take
    # 1.9 s where one takes 0.65 s (240 runs, 2 cores).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    app = build_app()
    try:
        result = app(words, exit_on_error=False, print_error=True)
    except StepladderError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except CycloptsError:
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left (`| head`): nothing to say
        return 0
    return result if isinstance(result, int) else 0


def script() -> None:
    """Entry point of the `stepladder` command."""
    sys.exit(main())


if __name__ == "__main__":
    script()
