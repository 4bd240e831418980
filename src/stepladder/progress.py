"""Units of work done in; on stderr a bar with rate and time left (plain lines off a terminal) out."""

import sys
import threading
import time
from typing import Self, TextIO

from stepladder.units import format_count, format_seconds

_LINE_EVERY_SECONDS = 10.0
_BAR_EVERY_SECONDS = 0.1
_BAR_WIDTH = 24
_TURN_SECONDS = 0.2
_TURNS = "|/-\\"


class Progress:
    """Progress of one stage. Use as a context manager and call `advance` or `update`.

    A total of 0 means "unknown": no share and no time left are shown. Nothing is printed when `quiet`. With
    `turns` the line of a terminal moves and tells the elapsed time also while nobody advances it.
    """

    def __init__(
        self, stage: str, total: float = 0, unit: str = "", *, quiet: bool = False, turns: bool = False
    ) -> None:
        self.stage, self.total, self.unit, self.quiet = stage, total, unit, quiet
        self.done = 0.0
        self._started = self._last = time.monotonic()
        self._start_done = 0.0
        self._stream: TextIO = sys.stderr
        self._is_terminal = self._stream.isatty()
        self._note = ""
        self._ends = threading.Event()
        self._turner: threading.Thread | None = None
        if turns and self._is_terminal and not quiet:
            self._turner = threading.Thread(target=self._turn, daemon=True)

    def __enter__(self) -> Self:
        self._show(force=True)
        if self._turner:
            self._turner.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._ends.set()
        if self._turner:
            self._turner.join()
        self._show(force=True, last=True, failed=kind is not None)

    def resume_at(self, done: float) -> None:
        """Count `done` as finished earlier: it shows in the share and not in the rate."""
        self.done = self._start_done = done
        self._show(force=done > 0)

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Add `amount` units; `note` is shown behind the figures."""
        self.update(self.done + amount, note)

    def update(self, done: float, note: str = "") -> None:
        """Set the units done."""
        self.done, self._note = done, note or self._note
        self._show()

    def seconds_left(self) -> float | None:
        """Seconds to the end at the mean rate so far; None while unknown."""
        elapsed, worked = time.monotonic() - self._started, self.done - self._start_done
        if not self.total or worked <= 0:
            return None
        return max(self.total - self.done, 0) * elapsed / worked

    def _turn(self) -> None:
        while not self._ends.wait(_TURN_SECONDS):
            self._show(force=True)

    def _show(self, *, force: bool = False, last: bool = False, failed: bool = False) -> None:
        now = time.monotonic()
        every = _BAR_EVERY_SECONDS if self._is_terminal else _LINE_EVERY_SECONDS
        if self.quiet or (not force and now - self._last < every):
            return
        self._last = now
        text = self._text(now, last=last, failed=failed)
        if self._is_terminal:
            self._stream.write("\r\x1b[2K" + text + ("\n" if last else ""))
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def _text(self, now: float, *, last: bool, failed: bool) -> str:
        parts = [f"{self.stage:<10}"]
        share = min(self.done / self.total, 1.0) if self.total else None
        if share is not None:
            if self._is_terminal:
                full = round(share * _BAR_WIDTH)
                parts.append("━" * full + "╌" * (_BAR_WIDTH - full))
            parts.append(f"{share:4.0%}")
        amount = format_count(self.done) + (f"/{format_count(self.total)}" if self.total else "")
        parts.append(f"{amount} {self.unit}".strip())
        left = self.seconds_left()
        if last:
            parts.append(("stopped after " if failed else "in ") + format_seconds(now - self._started))
        elif left is not None:
            parts.append(f"{format_seconds(left)} left")
        elif self._turner:
            elapsed = now - self._started
            turn = _TURNS[int(elapsed / _TURN_SECONDS) % len(_TURNS)]
            parts.append(f"{turn} {format_seconds(elapsed)}")
        if self._note:
            parts.append(self._note)
        return "  ".join(parts)
