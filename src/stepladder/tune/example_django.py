"""Django's release in; its messages and their translations out, a group a catalogue (no torch)."""

import tempfile
import zipfile
from pathlib import Path

from stepladder.tune.archives import DJANGO, fetch_archive
from stepladder.tune.catalogues import po_rows
from stepladder.tune.rows import Example

# Languages with nearly all messages translated, of the about ninety in the release.
LANGUAGES = ("fr", "de", "es", "it", "nl", "pl", "pt_BR", "sv", "tr", "uk", "ja", "ko", "zh_Hans")


def django_examples(language: str, *, offline: bool = False) -> list[Example]:
    """Message → translation. A group is the catalogue that first has the message: admin, auth, ... ."""
    found: dict[str, Example] = {}
    with (
        zipfile.ZipFile(fetch_archive(DJANGO, offline=offline)) as archive,
        tempfile.TemporaryDirectory() as at,
    ):
        wanted = f"/locale/{language}/LC_MESSAGES/"
        for name in sorted(name for name in archive.namelist() if wanted in name and name.endswith(".po")):
            group = name.partition("/locale/")[0].rpartition("/")[2]
            for _, row in po_rows(Path(archive.extract(name, at))):
                assert not isinstance(row, str)
                example = Example(text=row["source"], targets=(row["target"],), group=group)
                found.setdefault(example.text, example)
    return list(found.values())
