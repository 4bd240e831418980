"""The command line: help without heavy imports, did-you-mean, exit codes, every verb importable."""

import importlib
import subprocess
import sys

import pytest

from stepladder import __version__
from stepladder.cli import _VERBS, EXIT_USER_ERROR, build_app, main
from stepladder.errors import StepladderError

VERBS = [verb for _, verbs in _VERBS for verb in verbs]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_exists_and_says_what_it_does(verb: str) -> None:
    function = getattr(importlib.import_module(f"stepladder.verbs.{verb}"), verb)
    assert function.__doc__


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_without_torch(verb: str) -> None:
    code = (
        "import sys\nfrom stepladder.cli import main\n"
        f"code = main([{verb!r}, '--help'])\n"
        "heavy = {'torch', 'transformers', 'scipy', 'polars', 'sklearn'} & set(sys.modules)\n"
        "print(code, sorted(heavy))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"stepladder {verb}" in shown
    assert shown.splitlines()[-1] == "0 []"


def test_help_lists_the_steps_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(title) for title in ("Prepare", "Climb", "Use", "All of it", "Smaller doors")]
    assert places == sorted(places)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_an_unknown_verb_or_option_is_a_user_error_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plam"]) == EXIT_USER_ERROR
    said = capsys.readouterr()
    assert "plan" in said.out + said.err
    assert main(["report", "--figurs", "png"]) == EXIT_USER_ERROR
    said = capsys.readouterr()
    assert "--figures" in said.out + said.err


def test_a_user_error_is_printed_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["climb", "no-such-brief.toml"]) == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert said.startswith("error: no-such-brief.toml does not exist")
    assert "stepladder init" in said
    assert "Traceback" not in said


def test_exit_codes_of_interruptions(monkeypatch: pytest.MonkeyPatch) -> None:
    for raised, code in ((KeyboardInterrupt(), 130), (StepladderError("x"), 2)):

        def verb(*_: object, raised: BaseException = raised) -> None:
            raise raised

        monkeypatch.setattr("stepladder.verbs.report.report", verb)
        assert main(["report"]) == code


def test_the_application_registers_every_verb() -> None:
    names = {name for name in build_app() if not name.startswith("-")}
    assert names == set(VERBS)
