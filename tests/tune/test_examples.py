import io
import tarfile

import pytest

from stepladder.errors import TaskError
from stepladder.tune import examples
from stepladder.tune.docstrings import docstring_examples
from stepladder.tune.examples import example_task, vader_rows


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
    with pytest.raises(TaskError, match="not in the cache"):
        example_task("sentiment", offline=True)


def test_a_damaged_cached_archive_is_not_used(empty_cache):
    empty_cache.mkdir()
    (empty_cache / "vaderSentiment-3.3.2.tar.gz").write_bytes(b"half an archive")
    with pytest.raises(TaskError, match="not in the cache"):
        examples.fetch_archive(offline=True)


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
    if not (examples.cache_folder() / "vaderSentiment-3.3.2.tar.gz").exists():
        pytest.skip("the archive of vaderSentiment is not in the cache")
    sizes = {kind: len(rows) for kind, rows in vader_rows(examples.fetch_archive(offline=True)).items()}
    assert sizes == {"film review": 10_605, "editorial": 5_190, "tweet": 4_200, "product review": 3_708}
    task = example_task("text-kind", examples=2_000, offline=True)
    groups = [{e.group for e in part} for part in task.splits().values()]
    assert sum(map(len, groups)) == len(set().union(*groups))
