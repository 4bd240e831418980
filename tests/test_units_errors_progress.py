"""Text that people read: units, error messages, progress lines."""

import math
import os
import pty
import sys

import pytest

from stepladder.errors import FingerprintError, MissingExtraError, StepladderError, StoreError, did_you_mean
from stepladder.progress import Progress
from stepladder.units import bits_per_byte, format_bytes, format_count, format_seconds, format_usd


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (999_900, "1M"), (1_234_567, "1.23M"), (3e12, "3T")]
)
def test_counts(count: float, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.25, "1.2 s"), (59.9, "60 s"), (119.9, "2 min 00 s"), (7200, "2.0 h"), (math.inf, "unknown")],
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_bytes_and_money() -> None:
    assert format_bytes(1536) == "1.5 KiB"
    assert format_usd(0.00423) == "$0.0042"
    assert format_usd(1234.5) == "$1,234.50"


def test_bits_per_byte_of_uniform_bytes_is_eight() -> None:
    assert bits_per_byte(math.log(256), tokens=10, num_bytes=10) == pytest.approx(8.0)


def test_an_error_says_wrong_got_allowed_next() -> None:
    error = StepladderError("tokens is wrong", got="-1", allowed="a positive number", next_command="edit it")
    assert str(error) == ("tokens is wrong\n  got:     -1\n  allowed: a positive number\n  next:    edit it")
    assert issubclass(FingerprintError, StoreError)
    assert "stepladder[plots]" in str(MissingExtraError("PNG figures", "plots"))


def test_did_you_mean() -> None:
    assert did_you_mean("token", ["tokens", "loss"]) == ' (did you mean "tokens"?)'
    assert did_you_mean("zzz", ["tokens", "loss"]) == ""


def test_progress_prints_plain_lines_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("ladder", 4, "rungs") as progress:
        progress.advance(2, note="r02")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].split() == ["ladder", "0%", "0/4", "rungs"]
    assert "50%" in lines[-1]
    assert "r02" in lines[-1]
    assert "\r" not in "".join(lines)


def test_progress_does_not_count_resumed_work_in_its_rate() -> None:
    progress = Progress("target", 100, "steps", quiet=True)
    progress.resume_at(90)
    assert progress.seconds_left() is None
    progress.advance(5)
    left = progress.seconds_left()
    assert left is not None
    assert left < 1.0


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("data", 1, quiet=True) as progress:
        progress.advance()
    assert capsys.readouterr().err == ""


def test_a_line_of_a_terminal_moves_while_nobody_advances_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = pty.openpty()
    with open(writing, "w", buffering=1) as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Progress("tokenizer", 5, "characters", turns=True):
            shown = b""
            while b"/ " not in shown.replace(b"0/5", b"") or b"- " not in shown:
                shown += os.read(reading, 4096)
        os.set_blocking(reading, False)
        assert b"in " in os.read(reading, 4096).splitlines()[-1]
    os.close(reading)
