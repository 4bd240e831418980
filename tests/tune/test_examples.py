import io
import tarfile

import pytest

from stepladder.errors import TaskError
from stepladder.plan.machine import cache_folder
from stepladder.tune import example_packages, examples
from stepladder.tune.archives import DJANGO, fetch_archive
from stepladder.tune.docstrings import docstring_examples, summary_examples
from stepladder.tune.examples import EXAMPLE_TASKS, example_task, vader_rows
from stepladder.tune.tasks import asked, read_task
from stepladder.verbs.data_example import example


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "stepladder"


def test_docstrings_give_several_topics_and_whole_modules_per_split():
    task = example_task("docstring-topic", examples=1_400)
    assert len(task.labels) == 7
    groups = [{e.group for e in part} for part in task.splits().values()]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert 700 < len(task.train) < 1_000


def test_docstrings_have_a_bounded_length():
    lengths = [len(e.text) for e in docstring_examples()]
    assert min(lengths) >= 40
    assert max(lengths) <= 400


def test_without_network_the_default_falls_back_and_says_so(empty_cache):
    task = example_task("text-kind", examples=400, offline=True)
    assert task.name == "docstring-topic"
    assert task.notes[-1].startswith("text-kind could not be fetched (offline)")
    for name in ("sentiment", "sentiment-rating", "django-fr"):
        with pytest.raises(TaskError, match=r"not in the cache\n  got:     offline\n  next:    pip download"):
            example_task(name, offline=True)


def test_a_damaged_cached_archive_is_not_used(empty_cache):
    empty_cache.mkdir()
    (empty_cache / "vaderSentiment-3.3.2.tar.gz").write_bytes(b"half an archive")
    with pytest.raises(TaskError, match="not in the cache"):
        fetch_archive(offline=True)


def test_unknown_names_are_guessed():
    with pytest.raises(TaskError, match='did you mean "sentiment"'):
        example_task("sentimnet")


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def test_the_layout_of_the_archive_is_read(tmp_path):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        for stem in ("movieReviewSnippets", "nytEditorialSnippets", "tweets", "amazonReviewSnippets"):
            content = f"\ufeff1_1\t-0.9\t{stem} first \r\n1_2\t2.5\tcafé\r\n"
            add(tar, f"hutto_ICWSM_2014/{stem}_GroundTruth.txt", content.encode())
    archive = tmp_path / "outer.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        add(tar, "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
    rows = vader_rows(archive)
    assert {"film review", "editorial", "tweet", "product review"} == set(rows)
    assert rows["tweet"] == [("1_1", -0.9, "tweets first"), ("1_2", 2.5, "café")]
    kinds = examples._text_kind(rows)
    assert {"film review 1", "editorial 1", "tweet 1", "product review 1"} == {e.group for e in kinds}
    assert [e.label for e in examples._sentiment(rows)] == ["negative", "positive"] * 2


def test_the_real_archive_where_it_is_cached():
    if not (cache_folder() / "vaderSentiment-3.3.2.tar.gz").exists():
        pytest.skip("the archive of vaderSentiment is not in the cache")
    sizes = {kind: len(rows) for kind, rows in vader_rows(fetch_archive(offline=True)).items()}
    assert sizes == {"film review": 10_605, "editorial": 5_190, "tweet": 4_200, "product review": 3_708}
    task = example_task("text-kind", examples=2_000, offline=True)
    groups = [{e.group for e in part} for part in task.splits().values()]
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_summaries_of_docstrings_are_their_first_lines():
    rows = summary_examples()
    assert 1_000 < len(rows)
    assert all("\n" not in row.label and len(row.text) >= 80 for row in rows)


STANZAS = """Package: libred1
Source: red (1.2)
Section: non-free/libs
Tag: role::shared-lib, devel::library
Description: colours, the library
Description-md5: 0123
Homepage: https://red.example

Package: red
Section: utils
Description: colours
 A first line
 and a second.
 .
 A second paragraph.
Version: 1.2
"""


def test_fields_of_packages_are_read_over_lines():
    first, second = example_packages.parse_stanzas(STANZAS)
    assert ("non-free/libs", "red (1.2)") == (first["Section"], first["Source"])
    assert "A first line and a second.\nA second paragraph." == example_packages._paragraphs(
        second["Description"]
    )
    assert {"role::shared-lib", "devel::library"} == example_packages._tags(first)
    assert ("red", "red") == (example_packages._source(first), example_packages._source(second))


def here(name: str):
    """The set, or skip: its source is not on every machine."""
    try:
        return example_task(name, offline=True)
    except TaskError as error:
        pytest.skip(f"{name}: {error.wrong}")


BUILT = (
    *("sentiment-rating", "docstring-summary", "django-fr"),
    *("package-section", "package-tags", "package-summary", "package-questions"),
)


@pytest.mark.parametrize("name", BUILT)
def test_no_group_and_no_text_of_an_example_set_is_on_two_sides(name):
    task = here(name)
    assert EXAMPLE_TASKS[name][0] == task.kind
    assert ["source", "licence", "split by group"] == [note.split(":")[0] for note in task.notes[:3]]
    for key in (lambda row: row.group, asked):
        sides = [{key(row) for row in part} for part in task.splits().values()]
        assert sum(map(len, sides)) == len(set().union(*sides))
    sizes = [len(part) for part in task.splits().values()]
    assert 0.55 <= sizes[0] / sum(sizes) <= 0.8
    assert 0.12 <= sizes[2] / sum(sizes) <= 0.3


def test_questions_on_packages_have_their_answers_where_they_say_or_none():
    rows = [row for part in here("package-questions").splits().values() for row in part]
    assert 0.2 <= sum(not row.targets for row in rows) / len(rows) <= 0.3
    for row in rows:
        assert list(row.targets) == [
            row.text[start : start + len(said)] for start, said in zip(row.starts, row.targets, strict=True)
        ]


def test_a_written_example_is_read_as_a_task_with_its_notes(tmp_path, capsys):
    assert 0 == example("docstring-summary", out=tmp_path / "set")
    assert "licence: PSF-2.0" in capsys.readouterr().out
    task = read_task(tmp_path / "set")
    whole = example_task("docstring-summary")
    assert (whole.kind, whole.test, whole.notes) == (task.kind, task.test, task.notes)


def test_translations_of_django_where_they_are_cached():
    if not (cache_folder() / DJANGO.file).exists():
        pytest.skip("Django's release is not in the cache")
    task = example_task("django-fr", offline=True)
    assert [590, 83, 169] == [len(part) for part in task.splits().values()]
