"""A pinned release on the package index in; its archive in the user's cache, checked by SHA-256, out."""

import hashlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from stepladder.errors import TaskError
from stepladder.plan.machine import cache_folder
from stepladder.store import write_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """One file of a release: its pin, its name, what it must hash to."""

    release: str
    file: str
    sha256: str


VADER = Archive(
    release="vaderSentiment==3.3.2",
    file="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
DJANGO = Archive(
    release="Django==5.2.8",
    file="django-5.2.8-py3-none-any.whl",
    sha256="37e687f7bd73ddf043e2b6b97cfe02fcbb11f2dbb3adccc6a2b18c6daa054d7f",
)


def fetch_archive(archive: Archive = VADER, *, offline: bool = False) -> Path:
    """The archive, from the cache or through pip.

    Raises:
        TaskError: neither there nor to be had, or not the file that it should be.
    """
    target = cache_folder() / archive.file
    if target.exists() and _digest(target.read_bytes()) == archive.sha256:
        return target
    words = _pip_words(archive)
    said = " ".join(["pip", *words, "--dest", str(cache_folder())])
    if offline:
        raise TaskError(f"{archive.file} is not in the cache", got="offline", next_command=said)
    with tempfile.TemporaryDirectory() as folder:
        quiet = ["--disable-pip-version-check", "--quiet", "--retries", "1", "--timeout", "15"]
        command = [sys.executable, "-m", "pip", *words, *quiet, "--dest", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            failure = (done.stderr.strip().splitlines() or ["pip failed"])[-1] if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            failure = type(error).__name__
        fetched = Path(folder) / archive.file
        if failure or not fetched.exists():
            raise TaskError(
                f"{archive.file} cannot be fetched", got=failure or "no archive", next_command=said
            )
        content = fetched.read_bytes()
    if _digest(content) != archive.sha256:
        raise TaskError(
            f"the fetched {archive.file} is not the expected one",
            got=_digest(content),
            allowed=archive.sha256,
        )
    write_bytes(target, content)
    return target


def _pip_words(archive: Archive) -> list[str]:
    form = "--only-binary" if archive.file.endswith(".whl") else "--no-binary"
    return ["download", "--no-deps", form, ":all:", archive.release]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
