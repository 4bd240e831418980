"""Addresses of any fsspec file system in ("s3://bucket/*.jsonl.zst"); their files and byte streams out."""

import io
import posixpath
import time
from collections.abc import Iterator
from typing import Any

from stepladder.errors import DataError, MissingExtraError, did_you_mean

# Pauses before a broken read is tried again where it broke. A dropped connection is not the file's fault.
_PAUSES = (0.5, 2.0, 8.0)
_BLOCK = 1 << 20
# What the extra "remote" brings drivers for; others are the user's to install.
_IN_EXTRA = ("http", "https", "s3", "s3a")
_WEB = ("http", "https")


def is_remote(place: str) -> bool:
    """Whether a source or a path is an address ("s3://...") and not a name on this machine's disks."""
    return "://" in place


def list_remote(address: str) -> Iterator[tuple[str, str, int]]:
    """(name below the address, address, bytes; 0 when the server does not say) of a file, folder or glob.

    A web address is a folder when it ends in "/" and a glob when it holds "*".

    Raises:
        DataError: nothing is there, or the server refuses.
        MissingExtraError: fsspec or the driver of the protocol is not installed.
    """
    files, path = _file_system(address)
    is_web = _protocol(address) in _WEB
    has_magic = "*" in path if is_web else any(mark in path for mark in "*?[")
    try:
        if has_magic:
            root = _fixed_part(path)
            found = files.glob(path, detail=True)
        elif path.endswith("/") if is_web else files.isdir(path):
            root = path.rstrip("/")
            found = files.find(path, detail=True)
        else:
            root = posixpath.dirname(path)
            found = {path: files.info(path)}
    except Exception as error:  # each driver has exceptions of its own
        raise _refused(address, error) from error
    if not found:
        raise DataError(f"the source {without_query(address)} holds no files")
    for place, info in sorted(found.items()):
        if info.get("type") != "directory":
            name = place.removeprefix(root).lstrip("/")
            yield (
                without_query(name) if is_web else name,
                _address(files, place, address),
                int(info.get("size") or 0),
            )


def open_remote(address: str) -> io.BufferedReader:
    """A buffered stream of the bytes at an address; every failure of the driver becomes an OSError."""
    return io.BufferedReader(_Remote(address), _BLOCK)


def without_query(address: str) -> str:
    """An address or name without ?query: signatures and tokens stand there."""
    return address.partition("?")[0]


class _Remote(io.RawIOBase):
    """A file of fsspec that is opened again, where it stood, when the connection breaks."""

    def __init__(self, address: str) -> None:
        self._address, self._at = address, 0
        self._files: Any = None
        self._file: Any = None
        # Web servers without byte ranges can be read from the start to the end only.
        self._has_sought = self._is_stream = False
        self._retry(lambda: self._reopened().tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return not self._is_stream

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        before = self._at
        self._at = self._retry(lambda: self._reopened().seek(offset, whence))
        self._has_sought |= self._at != before
        return self._at

    def readinto(self, buffer: Any) -> int:
        raw = self._retry(lambda: self._reopened().read(len(buffer)))
        buffer[: len(raw)] = raw
        self._at += len(raw)
        return len(raw)

    def close(self) -> None:
        if self._file is not None and not self.closed:
            self._file.close()
        super().close()

    def _reopened(self) -> Any:
        if self._file is None:
            # An archive closes when nothing holds its file system any more.
            self._files, path = _file_system(self._address)
            self._file = self._files.open(path, "rb", block_size=0 if self._is_stream else _BLOCK)
            if self._is_stream:
                left = self._at
                while left and (passed := len(self._file.read(min(left, _BLOCK)))):
                    left -= passed
            elif self._at:
                self._file.seek(self._at)
        return self._file

    def _retry(self, action: Any) -> Any:
        for pause in (*_PAUSES, None):
            try:
                return action()
            except (FileNotFoundError, PermissionError, MissingExtraError, DataError):
                raise
            except Exception as error:  # each driver has exceptions of its own
                self._file = None
                if isinstance(error, ValueError) and not (self._has_sought or self._is_stream):
                    self._is_stream = True
                    continue
                if pause is None or isinstance(error, (ValueError, NotImplementedError)):
                    raise OSError(_said(error)) from error
                time.sleep(pause)
        raise OSError("the connection broke again and again")


def _file_system(address: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
        from fsspec.registry import known_implementations
    except ImportError as error:
        raise MissingExtraError("reading from addresses such as s3://", "remote") from error
    protocol = _protocol(address)
    if protocol not in known_implementations:
        raise DataError(
            f'"{protocol}" is no protocol of fsspec{did_you_mean(protocol, known_implementations)}',
            got=without_query(address),
            allowed="a file, folder or glob; s3://, https://, gs://, ... with the driver installed",
        )
    try:
        files, path = url_to_fs(address, **_settings(protocol))
    except ImportError as error:
        if protocol in _IN_EXTRA:
            raise MissingExtraError(f"reading from {protocol}://", "remote") from error
        raise DataError(f"no driver for {protocol}://", got=str(error)) from error
    except Exception as error:  # a driver that cannot start: no credentials, no server
        raise _refused(address, error) from error
    return files, path


def _settings(protocol: str) -> dict[str, Any]:
    """aiohttp ends a transfer after five minutes, whether or not it goes on; here only one that stands."""
    if protocol not in _WEB:
        return {}
    import aiohttp

    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)}}


def _refused(address: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"the source {without_query(address)} does not exist")
    return DataError(f"the source {without_query(address)} cannot be listed", got=_said(error))


def _said(error: Exception) -> str:
    lines = str(error).splitlines()
    return without_query(f"{type(error).__name__}: {lines[0][:200] if lines else ''}")


def _protocol(address: str) -> str:
    return address.partition("://")[0].lower().rpartition("::")[2]


def _address(files: Any, place: str, address: str) -> str:
    """The full address of a place in a file system; what stands after "::" (an archive) stays."""
    _, chain, outer = address.partition("::")
    return str(files.unstrip_protocol(place)) + chain + outer


def _fixed_part(pattern: str) -> str:
    parts = pattern.split("/")
    fixed = next((number for number, part in enumerate(parts) if any(mark in part for mark in "*?[")), 0)
    return "/".join(parts[:fixed])
