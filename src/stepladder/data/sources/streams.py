"""The place of a file in; a stream of its bytes out, unpacked, from the disk or from any fsspec address."""

import contextlib
import errno
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from typing import IO, Any

from stepladder.data.sources.remote import is_remote, open_remote, without_query
from stepladder.errors import MissingExtraError

COMPRESSIONS = (".gz", ".zst")
# What a damaged or vanished file raises while it is read.
READ_ERRORS = (OSError, EOFError, zlib.error, ValueError)
# A block of zstd takes 4 bytes at least and gives 128 KiB at most (RFC 8878, section 3.1.1.2): 1 KiB of a
# file made for it becomes 32 MiB, and 128 KiB would become 4 GiB in one step.
_ZSTD_INPUT = 1 << 10
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_raw(path: str) -> Any:
    """The bytes as they lie, seekable where the place allows it.

    Raises:
        OSError: not there, no permission, or no regular file; such a file is not opened, so it cannot block.
    """
    if is_remote(path):
        return open_remote(path)
    kind = special(os.stat(path).st_mode)
    if kind:
        raise OSError(f"{kind}, not a regular file")
    return open(path, "rb")


def special(mode: int) -> str:
    """What a path with this mode is, when it is no regular file: "a named pipe"; else ""."""
    if stat.S_ISREG(mode):
        return ""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "of an unknown kind")


def packing_of(path: str) -> str:
    """ ".gz", ".zst" or "" by the name of the file."""
    # What stands behind "::" is the archive that the file lies in.
    name = (without_query(path.partition("::")[0]) if is_remote(path) else path).lower()
    return next((packing for packing in COMPRESSIONS if name.endswith(packing)), "")


@contextlib.contextmanager
def open_packed(path: str) -> Iterator[IO[bytes]]:
    """A byte stream of a plain, .gz or .zst file. Truncated packed files raise EOFError at their end."""
    packing = packing_of(path)
    with open_raw(path) as stream:
        if packing == ".gz":
            with gzip.GzipFile(fileobj=stream) as packed:
                # A BufferedReader around it would lose up to 8 kB of what stands before a break.
                yield packed  # pyrefly: ignore
        elif packing == ".zst":
            try:
                import zstandard
            except ImportError as error:
                raise MissingExtraError("reading .zst files", "data") from error
            yield io.BufferedReader(_ZstdStream(stream, zstandard), 1 << 20)
        else:
            yield stream


class _ZstdStream(io.RawIOBase):
    """Decompresses frame after frame. zstandard's own reader ends quietly inside a truncated frame."""

    def __init__(self, file: IO[bytes], zstandard: Any) -> None:
        self._file, self._zstandard = file, zstandard
        self._frame: Any = None
        self._input = self._ready = b""
        self._at = 0
        self._error = ""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        filled = 0
        while filled < len(buffer):
            if self._at == len(self._ready):
                try:
                    self._ready, self._at = self._next(), 0
                except (EOFError, ValueError):
                    if not filled:
                        raise
                    break  # it is raised again when what came before it is read
                if not self._ready:
                    break
            count = min(len(buffer) - filled, len(self._ready) - self._at)
            buffer[filled : filled + count] = self._ready[self._at : self._at + count]
            filled, self._at = filled + count, self._at + count
        return filled

    def _next(self) -> bytes:
        while True:
            if self._error:
                raise ValueError(self._error)
            if not self._input:
                self._input = self._file.read(_ZSTD_INPUT)
                if not self._input:
                    if self._frame is not None:
                        raise EOFError("the .zst file is truncated")
                    return b""
            try:
                self._frame = self._frame or self._zstandard.ZstdDecompressor().decompressobj()
                ready = self._frame.decompress(self._input)
            except self._zstandard.ZstdError as error:
                self._error = str(error)
                raise ValueError(self._error) from error
            self._input = self._frame.unused_data if self._frame.eof else b""
            self._frame = None if self._frame.eof else self._frame
            if ready:
                return ready


def read_whole(path: str, limit: int) -> bytes:
    """All bytes of a file, unpacked; ValueError when there are more than `limit`."""
    with open_packed(path) as stream:
        raw = stream.read(limit + 1)
    if len(raw) > limit:
        raise ValueError(f"larger than {limit / 1e6:.0f} MB")
    return raw


def skip_line(stream: IO[bytes]) -> int:
    """Read to the end of the line; bytes passed over."""
    skipped = 0
    while line := stream.readline(1 << 20):
        skipped += len(line)
        if line.endswith(b"\n"):
            break
    return skipped


def reason_of(error: BaseException) -> str:
    """One line that says what went wrong, without the path and in the same words on every system."""
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    if isinstance(error, FileNotFoundError):
        return os.strerror(errno.ENOENT)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    text = str(error).splitlines()
    return text[0][:200] if text else type(error).__name__
