"""Names of sources in; the list of files behind them out, in an order that does not depend on the machine.

A source is a file, a folder (searched to the bottom), a glob, any of these at an address that fsspec knows
("s3://bucket/*.jsonl.zst"), or text that came with the running Python and its packages: `python:code`,
`python:prose` (manuals, descriptions, licences), `python:installed` (both) and `python:docstrings` (the
documentation inside the code: ten times the prose, file by file).
"""

import functools
import glob
import hashlib
import importlib.util
import itertools
import os
import stat
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.request import url2pathname

from stepladder.data.sources.licences import folder_licence, package_licences
from stepladder.data.sources.remote import is_remote, list_remote, without_query
from stepladder.data.sources.streams import COMPRESSIONS, open_raw, packing_of, reason_of, special
from stepladder.errors import DataError, MissingExtraError, did_you_mean

PYTHON_SOURCES = ("python:installed", "python:code", "python:prose", "python:docstrings")
RECORDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".csv": "csv",
    ".tsv": "tsv",
}
PAGES = {
    ".html": ("html", "prose"),
    ".htm": ("html", "prose"),
    ".xhtml": ("html", "prose"),
    ".ipynb": ("notebook", "code"),
}
PROSE = (".txt", ".md", ".rst", ".markdown", ".text")
CODE = (
    *(".py", ".pyi", ".pyx", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java", ".kt", ".js"),
    *(".ts", ".jsx", ".tsx", ".rb", ".pl", ".lua", ".jl", ".r", ".scala", ".swift", ".sh", ".sql", ".f90"),
)
MANUAL = tuple(f".{section}" for section in range(1, 9))
# Lists written by installers, for installers.
_MACHINE_WRITTEN = {
    "top_level.txt",
    "entry_points.txt",
    "SOURCES.txt",
    "dependency_links.txt",
    "requires.txt",
    "namespace_packages.txt",
    "zip-safe",
    "RECORD",
    "WHEEL",
    "INSTALLER",
}
_LICENCE_STEMS = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "AUTHORS", "COPYRIGHT", "CONTRIBUTORS")
_SKIPPED_FOLDERS = {"__pycache__", "node_modules", "site-packages", "dist-packages"}
# Lists of words, one a line, for programs to look up.
_LIST_FOLDERS = {"stoplists", "stopwords", "wordlists"}
_TEST_FOLDERS = {"test", "tests", "testing", "testdata", "test_data", "idle_test"}
# Kinds of files that can be read from the middle.
RANGED = ("text", "jsonl", "parquet")
UNREADABLE = "unreadable: "
_BLOCK = 1 << 20
_FULL_SHARE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """One file to read. `name` is relative to its source: stable when the folder moves.

    `source` names the source that it came from (a folder's or file's own name, `python:code`, ...): mixture
    weights and figures are given by it. Of a large file only what begins in the bytes from `start` to `end`
    is read (`end` 0: to the end of the file).
    """

    name: str
    path: str
    num_bytes: int
    kind: str = "text"
    source: str = ""
    domain: str = "prose"
    licence: str = ""
    held_out: bool = False
    digest: str = ""
    start: int = 0
    end: int = 0


def list_files(sources: Sequence[str], *, held_out: bool = False) -> list[SourceFile]:
    """All readable kinds of files of `sources`, sorted by name; the same file is listed once.

    Raises:
        DataError: a source does not exist or holds no text; all such sources are named at once.
    """
    found: dict[tuple[str, str], SourceFile] = {}
    problems = []
    real_folder = functools.cache(os.path.realpath)
    for source in sources:
        try:
            files = list(_files_of(source))
        except DataError as error:
            problems.append(error)
            continue
        for file in files:
            place = file.path
            if not is_remote(place):
                folder, name = os.path.split(place)
                place = os.path.join(real_folder(folder), name)
            found.setdefault((place, file.kind), replace(file, held_out=held_out, source=source_name(source)))
    if problems:
        raise DataError(
            "; ".join(error.wrong for error in problems),
            got="; ".join(error.got for error in problems if error.got),
            allowed=f"files, folders, globs, addresses, {', '.join(PYTHON_SOURCES)}",
            next_command=problems[0].next_command,
        )
    _require_libraries(found.values())
    return _with_unique_names(sorted(found.values(), key=lambda file: (file.name, file.num_bytes)))


def sample_files(files: Sequence[SourceFile], max_bytes: int, seed: int) -> list[SourceFile]:
    """Whole files in seeded order until `max_bytes`; held-out files given by path always stay."""
    if not max_bytes:
        return list(files)
    order = sorted(files, key=lambda file: hashlib.blake2b(f"{seed}:{file.name}".encode()).digest())
    chosen, total = set(), 0
    for file in order:
        # Once nearly full only tiny files would still fit, and the sample would be made of them.
        is_full = total > _FULL_SHARE * max_bytes
        if file.held_out or (not is_full and total + file.num_bytes <= max_bytes):
            chosen.add(file.name)
            total += 0 if file.held_out else file.num_bytes
    return [file for file in files if file.name in chosen]


def with_digests(files: Sequence[SourceFile]) -> list[SourceFile]:
    """The files with the SHA-256 of their bytes; an unreadable one is marked so and quarantined later."""
    return [replace(file, digest=_digest(file.path)) for file in files]


def in_ranges(files: Iterable[SourceFile], range_bytes: int) -> Iterator[SourceFile]:
    """The files, large ones as several that hold `range_bytes` each, so that several processes read them.

    A file that is packed, or whose kind has no places to begin at, stays whole; so does one behind a web
    server, which may not be able to begin in the middle.
    """
    for file in files:
        is_web = file.path.startswith(("http://", "https://"))
        is_whole = file.kind not in RANGED or packing_of(file.path) or is_web
        if is_whole or file.num_bytes < 2 * range_bytes or file.digest.startswith(UNREADABLE):
            yield file
            continue
        edges = [*range(0, file.num_bytes - range_bytes // 2, range_bytes), file.num_bytes]
        for start, end in itertools.pairwise(edges):
            # The last one reads on to the end, wherever that is by then.
            last = end == file.num_bytes
            yield replace(file, start=start, end=0 if last else end, num_bytes=end - start)


def _digest(path: str) -> str:
    total = hashlib.sha256()
    try:
        with open_raw(path) as stream:
            while block := stream.read(_BLOCK):
                total.update(block)
    except (OSError, DataError) as error:
        return f"{UNREADABLE}{reason_of(error)}"
    return total.hexdigest()


def _files_of(source: str) -> Iterator[SourceFile]:
    if source.startswith("python:"):
        if source not in PYTHON_SOURCES:
            raise DataError(f'"{source}" is not a source{did_you_mean(source, PYTHON_SOURCES)}')
        yield from _installed(source)
        return
    if source.startswith("file://"):
        source = url2pathname(source.removeprefix("file://").removeprefix("localhost"))
    if is_remote(source):
        yield from _remote(source)
        return
    path = Path(source).expanduser()
    if path.is_dir():
        files = list(_walk(path))
        if not files:
            raise DataError(f"the folder {source} holds no text files", next_command=f"ls -R {source} | head")
        yield from files
    elif path.exists():
        if kind := special(path.stat().st_mode):
            raise DataError(f"the source {source} is {kind}, not a regular file")
        yield _source_file(path.name, path, *(classify(path.name) or ("text", "prose")))
    else:
        yield from _matching(source, path)


def _matching(source: str, path: Path) -> Iterator[SourceFile]:
    """Files that match a glob; linked folders are not searched, so that a loop of links ends."""
    root = _fixed_part(str(path))
    pattern = os.path.relpath(path, root)
    # Below Python 3.13 "**" at the end means folders only.
    pattern = os.path.join(pattern, "*") if pattern.endswith("**") else pattern
    matches = sorted(Path(root).glob(pattern)) if glob.has_magic(str(path)) else []
    if not matches:
        near = did_you_mean(path.name, os.listdir(path.parent) if path.parent.is_dir() else [])
        raise DataError(f"the source {source} does not exist{near}", next_command=f"ls {path.parent}")
    for match in matches:
        name = os.path.relpath(match, root)
        is_hidden = any(part.startswith(".") for part in Path(name).parts) and not path.name.startswith(".")
        if not is_hidden and not match.is_dir():
            yield _source_file(name, match, *(classify(match.name) or ("text", "prose")))


def _remote(source: str) -> Iterator[SourceFile]:
    """Files at an address; in a folder only those that are known by their names."""
    found = list(list_remote(source))
    is_chosen = len(found) == 1 or "*" in source
    chosen = 0
    for name, address, num_bytes in found:
        known = classify(os.path.basename(name)) or (("text", "prose") if is_chosen else None)
        if known is None or any(part.startswith(".") for part in name.split("/")):
            continue
        chosen += 1
        yield SourceFile(name=name, path=address, num_bytes=num_bytes, kind=known[0], domain=known[1])
    if not chosen:
        raise DataError(f"the folder {without_query(source)} holds no text files")


@functools.lru_cache(maxsize=65_536)
def classify(name: str) -> tuple[str, str] | None:
    """(kind, domain) of a file by its name, None for what is not text: `a.jsonl.gz` -> ("jsonl", "prose")."""
    stem, suffix = os.path.splitext(name)
    packed = suffix.lower() in COMPRESSIONS
    if packed:
        name, (stem, suffix) = stem, os.path.splitext(stem)
    suffix = suffix.lower()
    if suffix in RECORDS:
        return RECORDS[suffix], "prose"
    if suffix in PAGES:
        return PAGES[suffix]
    if stem.upper().startswith(_LICENCE_STEMS) and suffix in ("", *PROSE, *(f".{digit}" for digit in "0123")):
        return "text", "reference"
    if suffix in CODE:
        return "text", "code"
    if suffix in PROSE or stem.upper() == "README":
        return "text", "prose"
    if suffix in MANUAL and packed:
        return "text", "reference"
    return None


def _walk(root: Path) -> Iterator[SourceFile]:
    licence_of = functools.cache(lambda folder: folder_licence(Path(folder), root))
    closed: list[str] = []
    for folder, folders, names in os.walk(root, onerror=lambda error: closed.append(error.filename)):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _SKIPPED_FOLDERS)
        for name in sorted(names):
            known = classify(name)
            if known is None or name.startswith("."):
                continue
            path = Path(folder, name)
            yield _source_file(path.relative_to(root).as_posix(), path, *known, licence_of(folder))
    for folder in closed:
        yield _source_file(f"{Path(folder).relative_to(root).as_posix()}/", folder, "unreadable", "prose")


def _installed(source: str) -> Iterator[SourceFile]:
    paths = sysconfig.get_paths()
    roots = dict.fromkeys([paths["stdlib"], paths["purelib"], paths["platlib"]])
    wanted = {
        "python:code": ("code",),
        "python:docstrings": ("code",),
        "python:prose": ("prose", "reference"),
    }.get(source)
    for root in roots:
        is_library = root == paths["stdlib"]
        licences = {} if is_library else package_licences(Path(root))
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(f for f in folders if f not in _SKIPPED_FOLDERS)
            inside = Path(folder).relative_to(root).parts
            for name in sorted(names):
                known = _classify_installed(name, inside)
                if known is None or (wanted and known[1] not in wanted):
                    continue
                package = (inside or (name,))[0]
                licence = "PSF-2.0" if is_library else licences.get(package, "")
                label = "/".join(("stdlib" if is_library else "packages", *inside, name))
                if source == "python:docstrings":
                    if _TEST_FOLDERS & set(inside) or name.startswith("test_"):
                        continue  # strings of tests are input for the tests
                    known = ("docstrings", "reference")
                yield _source_file(label, os.path.join(folder, name), *known, licence)


def _classify_installed(name: str, inside: tuple[str, ...]) -> tuple[str, str] | None:
    if name == "METADATA" and inside and inside[-1].endswith(".dist-info"):
        return "metadata", "prose"
    if name in _MACHINE_WRITTEN or name.endswith((*COMPRESSIONS, *RECORDS, *PAGES)):
        return None
    known = classify(name)
    # What lies beside tests and is not code is input for the tests: often text in odd encodings.
    if known and known[1] != "code" and (_TEST_FOLDERS | _LIST_FOLDERS) & set(inside):
        return None
    return known if known and (known[1] != "code" or name.endswith((".py", ".pyi"))) else None


def _source_file(name: str, path: str | Path, kind: str, domain: str, licence: str = "") -> SourceFile:
    try:
        found = os.stat(path)
        size = found.st_size if stat.S_ISREG(found.st_mode) else 0
    except OSError:
        size = 0
    return SourceFile(
        name=_printable(name),
        path=os.path.abspath(path),
        num_bytes=size,
        kind=kind,
        domain=domain,
        licence=licence,
    )


def _printable(name: str) -> str:
    """A name whose bytes are not UTF-8 with those bytes written out: it stands in JSON and in tables."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def _require_libraries(files: Iterable[SourceFile]) -> None:
    """Say before the work begins that a library for one of the files is not there."""
    page = next((file.name for file in files if file.kind == "html"), "")
    if page and importlib.util.find_spec("trafilatura") is None:
        raise MissingExtraError(f"reading HTML ({page})", "html")


def source_name(source: str) -> str:
    """What a source is called in cards and mixtures: its last part, `python:...` whole."""
    if source.startswith("python:"):
        return source
    plain = without_query(source) if is_remote(source) else source
    return _printable(Path(plain).name or plain)


def _fixed_part(pattern: str) -> str:
    parts = []
    for part in Path(pattern).parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return os.path.join(*parts) if parts else "."


def _with_unique_names(files: list[SourceFile]) -> list[SourceFile]:
    seen: dict[str, int] = {}
    out = []
    for file in files:
        count = seen[file.name] = seen.get(file.name, 0) + 1
        out.append(replace(file, name=f"{file.name}#{count}") if count > 1 else file)
    return out
