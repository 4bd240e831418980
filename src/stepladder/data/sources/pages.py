"""A web page or a notebook in; its one document out, or what is wrong with it."""

import codecs
import json
import logging
import re

from stepladder.data.sources.columns import Document, Fault, Items
from stepladder.data.sources.streams import READ_ERRORS, read_whole, reason_of
from stepladder.errors import MissingExtraError

# trafilatura gives up on larger pages (MAX_FILE_SIZE of its settings).
LONGEST_PAGE = 20_000_000
LONGEST_NOTEBOOK = 64 << 20
# Where the HTML standard looks for the encoding ("prescan a byte stream": the first 1,024 bytes).
_DECLARED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""", re.IGNORECASE)
_PRESCAN = 1024
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
# The Encoding standard (WHATWG, section 4.2) reads these labels as windows-1252.
_WINDOWS_1252 = ("iso8859-1", "ascii")


def read_html(path: str) -> Items:
    """The main text of a page. A page without any is an empty document, which the rule "empty" removes."""
    try:
        import trafilatura
    except ImportError as error:
        raise MissingExtraError("reading HTML", "html") from error

    # It reports pages without text as errors, on the terminal.
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    try:
        raw = read_whole(path, LONGEST_PAGE)
    except READ_ERRORS as error:
        yield Fault(0, reason_of(error))
        return
    page, reason = decode_page(raw)
    if reason:
        yield Fault(0, reason, len(raw), raw)
        return
    try:
        text = trafilatura.extract(page, include_comments=False, deduplicate=False) or ""
        text = text.encode("utf-8", errors="replace").decode()
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        yield Fault(0, f"not readable HTML: {reason_of(error)}", len(raw), raw)
        return
    yield Document(0, text, len(raw))


def decode_page(raw: bytes) -> tuple[str, str]:
    """(text, "") or ("", reason): by byte-order mark, else by what the page declares, else as UTF-8."""
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "")
    declared = _DECLARED.search(raw, 0, _PRESCAN)
    if not encoding and declared:
        label = declared[1].decode()
        try:
            encoding = codecs.lookup(label).name
        except LookupError:
            return "", f"declares the unknown encoding {label[:40]}"
        # A declaration that can be found as ASCII is not in UTF-16, whatever it says.
        encoding = "utf-8" if encoding.startswith("utf-16") else encoding
        encoding = "cp1252" if encoding in _WINDOWS_1252 else encoding
    encoding = encoding or "utf-8"
    try:
        return raw.decode(encoding), ""
    except UnicodeDecodeError as error:
        return "", f"not {encoding}: byte {raw[error.start]:#04x} at offset {error.start}"
    except (LookupError, ValueError):  # a codec that is not one of text, such as "hex"
        return "", f"declares the encoding {encoding}, which it is not in"


def read_notebook(path: str) -> Items:
    """Cells of text and code of a Jupyter notebook in their order, a blank line between; no outputs."""
    try:
        raw = read_whole(path, LONGEST_NOTEBOOK)
        if not raw.strip():
            yield Fault(0, "empty, not a notebook", len(raw))
            return
        text = "\n\n".join(_cells(json.loads(raw.decode("utf-8-sig"))))
        text.encode()
    except (*READ_ERRORS, RecursionError, TypeError, AttributeError) as error:
        yield Fault(0, f"not a notebook: {reason_of(error)}")
    else:
        yield Document(0, text, len(raw))


def _cells(notebook: dict) -> list[str]:
    # Format 4 has cells at the top, format 3 in worksheets, with "input" for "source".
    cells = notebook.get("cells") or [c for sheet in notebook.get("worksheets", []) for c in sheet["cells"]]
    sources = (cell.get("source", cell.get("input", "")) for cell in cells)
    return [text for source in sources if (text := "".join(source).strip("\n"))]
