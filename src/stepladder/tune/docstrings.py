"""The standard library on this machine in; docstrings with their topic or summary out (no torch, no network).

docstring-topic: a label is the chapter of Python's library reference that documents the module.
docstring-summary: what a docstring says below its first line, and that line. A group is the module, so that a
test docstring comes from a module that training has not seen. Files are parsed, never imported.
"""

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

from stepladder.tune.tasks import Example

# Chapters of docs.python.org/3/library with their modules; only modules written in Python have a file.
_CHAPTERS = {
    "internet": "email http urllib ftplib poplib imaplib smtplib socketserver xmlrpc ipaddress wsgiref uuid "
    "webbrowser ssl socket selectors asyncio mailbox mimetypes base64 quopri",
    "files": "pathlib shutil tempfile glob fnmatch fileinput filecmp linecache zipfile tarfile gzip bz2 lzma "
    "configparser csv plistlib netrc os posixpath ntpath genericpath stat io _pyio zipimport",
    "numbers and data": "datetime _pydatetime calendar collections heapq bisect weakref types copy pprint "
    "reprlib enum graphlib numbers decimal _pydecimal fractions random statistics functools operator "
    "contextlib abc dataclasses queue sched array zoneinfo",
    "text": "string re textwrap difflib codecs stringprep json html xml gettext locale argparse optparse "
    "getopt cmd shlex encodings tokenize",
    "language tools": "ast symtable dis pickletools inspect traceback pdb bdb profile cProfile timeit trace "
    "tracemalloc unittest doctest pydoc importlib pkgutil modulefinder runpy code codeop compileall "
    "py_compile pyclbr tabnanny venv ensurepip zipapp ctypes pickle copyreg shelve dbm sqlite3 marshal",
    "processes and logging": "logging threading multiprocessing concurrent subprocess signal getpass "
    "platform curses warnings atexit faulthandler",
    "graphics": "tkinter turtle colorsys idlelib turtledemo wave",
}
_MIN_CHARACTERS, _MAX_CHARACTERS = 40, 400
_MIN_BODY, _MAX_BODY, _MIN_SUMMARY = 80, 1_500, 15
# So that no single module (turtle, tkinter) is most of its chapter.
_MOST_PER_FILE = 40


def docstring_examples() -> list[Example]:
    """First characters of docstrings of functions and classes, one example each, labelled by topic."""
    examples = []
    for label, group, found in _modules():
        texts = (" ".join(text.split()) for text in found)
        long = (text[:_MAX_CHARACTERS] for text in texts if len(text) >= _MIN_CHARACTERS)
        examples += [
            Example(text=text, targets=(label,), group=group) for text in islice(long, _MOST_PER_FILE)
        ]
    return examples


def summary_examples() -> list[Example]:
    """The body of a docstring → its first line, where a blank line parts them (PEP 257)."""
    examples = []
    for _, group, found in _modules():
        for text in found:
            summary, _, body = text.partition("\n\n")
            body, summary = body.strip()[:_MAX_BODY], summary.strip()
            if "\n" not in summary and len(summary) >= _MIN_SUMMARY and len(body) >= _MIN_BODY:
                examples.append(Example(text=body, targets=(summary,), group=group))
    return examples


@cache
def _modules() -> list[tuple[str, str, list[str]]]:
    """(topic, name of the module, its docstrings) of each module of the chapters."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return [
        (label, path.relative_to(root).as_posix(), list(_docstrings(path)))
        for label, modules in _CHAPTERS.items()
        for module in modules.split()
        for path in _files(root, module)
    ]


def _files(root: Path, module: str) -> list[Path]:
    single, package = root / f"{module}.py", root / module
    if single.is_file():
        return [single]
    found = sorted(package.rglob("*.py")) if package.is_dir() else []
    return [path for path in found if not {"test", "tests", "idle_test"} & set(path.parts)]


def _docstrings(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield ast.get_docstring(node) or ""
