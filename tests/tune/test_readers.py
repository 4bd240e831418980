import json
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.ipc as ipc
import pyarrow.parquet as parquet
import pytest

from stepladder.errors import TaskError
from stepladder.tune.readers import parse_columns, read_examples
from stepladder.tune.rows import MAX_CHARACTERS
from stepladder.tune.tasks import read_task

ROWS = [{"text": f'text {at}, "so"\nsaid', "label": "ab"[at % 2]} for at in range(60)]


def quoted(cell: object) -> str:
    return '"' + str(cell).replace('"', '""') + '"'


def write_csv(path: Path, header: str, *rows: list[object], delimiter: str = ",") -> Path:
    lines = [header, *(delimiter.join(map(quoted, row)) for row in rows)]
    path.write_bytes("\r\n".join(lines).encode())
    return path


def save_to_disk(folder: Path, split: str, table: pa.Table) -> None:
    """As datasets 4 lays it out: Arrow streams beside state.json."""
    place = folder / split
    place.mkdir(parents=True)
    with ipc.new_stream(place / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    (place / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    )


def classes(rows: list[dict[str, object]], names: list[str]) -> pa.Table:
    features = {"text": {"_type": "Value"}, "label": {"names": names, "_type": "ClassLabel"}}
    table = pa.Table.from_pylist(rows)
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def seen(path: Path) -> list[tuple[str, str]]:
    return [(example.text, example.label) for example in read_examples(path)[1]]


def test_all_forms_of_one_table_read_alike(tmp_path):
    wanted = [(row["text"], row["label"]) for row in ROWS]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps({"data": ROWS}))
    cells = [[row["label"], row["text"]] for row in ROWS]
    write_csv(tmp_path / "a.csv", "label,text", *cells)
    write_csv(tmp_path / "a.tsv", "\ufefflabel\ttext", *cells, delimiter="\t")
    table = pa.Table.from_pylist(ROWS)
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    feather.write_feather(table, tmp_path / "a.feather")
    with ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    for ending in ("jsonl", "json", "csv", "tsv", "parquet", "feather", "arrow"):
        assert wanted == seen(tmp_path / f"a.{ending}"), ending


def test_column_maps_rename_and_say_the_kind(tmp_path):
    path = write_csv(tmp_path / "stars.csv", "body,label,stars", ["fine", "x", "4.5"], ["poor", "y", "1"])
    kind, rows = read_examples(path, columns=parse_columns("text=body, rating=stars"))
    assert ("rating", ["4.5", "1.0"]) == (kind, [row.label for row in rows])
    kind, rows = read_examples(path, columns={"text": "body"})
    assert ("classification", ["x", "y"]) == (kind, [row.label for row in rows])
    nested = [{"translation": {"en": "red", "fr": "rouge"}}]
    parquet.write_table(pa.Table.from_pylist(nested), tmp_path / "pairs.parquet")
    kind, (row,) = read_examples(
        tmp_path / "pairs.parquet", columns=parse_columns("source=translation.en,target=translation.fr")
    )
    assert ("translation", "red", "rouge") == (kind, row.text, row.label)
    with pytest.raises(TaskError, match=r"cannot name 'lable' \(did you mean \"label\"\?\)"):
        parse_columns("lable=stars")


def test_cells_of_text_say_lists_numbers_and_answers(tmp_path):
    path = write_csv(tmp_path / "m.csv", "text,labels", ["a", "x|y"], ["b", ""], ["c", '["z", 3]'])
    assert [("x", "y"), (), ("3", "z")] == [row.targets for row in read_examples(path)[1]]
    answers = ['{"text": ["red"], "answer_start": [6]}', "[]", '[{"text": "it", "start": 0}]']
    cells = [["it is red", f"question {at}", answer] for at, answer in enumerate(answers)]
    path = write_csv(tmp_path / "q.csv", "context,question,answers", *cells)
    kind, rows = read_examples(path)
    assert ("span", [(6,), (), (0,)]) == (kind, [row.starts for row in rows])
    path = write_csv(tmp_path / "w.csv", "text,label,weak", ["a", "x", "true"], ["b", "y", ""])
    assert [True, False] == [row.weak for row in read_examples(path)[1]]


def squad(articles: int) -> dict[str, object]:
    def paragraph(at: int) -> dict[str, object]:
        yes = {"question": "what colour?", "answers": [{"text": "red", "answer_start": 6}], "id": "1"}
        no = {"question": "what size?", "answers": [], "is_impossible": True, "plausible_answers": []}
        return {"context": f"it is red {at}", "qas": [yes, no]}

    return {
        "version": "v2.0",
        "data": [
            {"title": f"article {at}", "paragraphs": [paragraph(2 * at), paragraph(2 * at + 1)]}
            for at in range(articles)
        ],
    }


def test_squad_is_read_and_split_by_article_where_there_are_enough(tmp_path):
    path = tmp_path / "squad.json"
    for articles, group in ((25, "article 0"), (5, "it is red 0")):
        path.write_text(json.dumps(squad(articles)))
        kind, rows = read_examples(path)
        assert ("span", 4 * articles) == (kind, len(rows))
        assert (group, "red", (6,)) == (rows[0].group, rows[0].label, rows[0].starts)
        assert ("what size?", ()) == (rows[1].question, rows[1].targets)
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "it is red"}]}]}))
    with pytest.raises(TaskError, match='question 1: no "paragraphs" with "context" and "qas"'):
        read_examples(path)


def test_parallel_lines_are_one_folder_or_two_paths(tmp_path):
    sides = ([f"word {at}" for at in range(40)] + [""], [f"mot {at}" for at in range(40)] + [""])
    for ending, lines in zip(("en", "fr"), sides, strict=True):
        (tmp_path / f"news.{ending}").write_text("\n".join(lines) + "\n")
    task = read_task(tmp_path)
    assert ("translation", [28, 4, 8]) == (task.kind, [len(part) for part in task.splits().values()])
    assert {(f"word {at}", f"mot {at}") for at in range(40)} == {
        (row.text, row.label) for part in task.splits().values() for row in part
    }
    back = read_task(tmp_path, columns={"source": "fr", "target": "en"})
    assert back.train[0].text.startswith("mot")
    both = Path(f"{tmp_path / 'news.fr'},{tmp_path / 'news.en'}")
    assert back.train == read_task(both).train
    (tmp_path / "news.fr").write_text("mot 0\n")
    with pytest.raises(TaskError, match=r"not parallel\n  got:     41 and 1 lines"):
        read_task(tmp_path)


PO = r"""# header
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\n"
"Plural-Forms: nplurals=2; plural=(n > 1);\n"

#, python-format
msgctxt "shown"
msgid "Open "
"\"%s\"\n"
msgstr "Ouvrir « %s »\n"

#, fuzzy
msgid "close"
msgstr "ouvrir"
msgid "none yet"
msgstr ""

msgid "one file"
msgid_plural "%d files"
msgstr[0] "un fichier"
msgstr[1] "%d fichiers"

#~ msgid "old"
#~ msgstr "ancien"
"""


def test_catalogues_give_translated_messages(tmp_path):
    (tmp_path / "django.po").write_text(PO)
    wanted = [
        ('Open "%s"\n', "Ouvrir « %s »\n"),
        ("one file", "un fichier"),
        ("%d files", "%d fichiers"),
    ]
    assert wanted == seen(tmp_path / "django.po")
    (tmp_path / "bad.po").write_bytes(b'msgid "a"\nmsgstr "\xe9"\n')
    with pytest.raises(TaskError, match="line 2: not UTF-8"):
        read_examples(tmp_path / "bad.po")
    (tmp_path / "bad.po").write_text("msgid a\n")
    with pytest.raises(TaskError, match="line 1: msgid a"):
        read_examples(tmp_path / "bad.po")


def test_a_folder_of_many_catalogues_is_split_by_catalogue(tmp_path):
    for at in range(12):
        place = tmp_path / f"app{at}" / "locale"
        place.mkdir(parents=True)
        entries = [f'msgid "word {at} {n}"\nmsgstr "mot {at} {n}"\n' for n in range(5)]
        (place / "django.po").write_text("\n".join(entries))
    task = read_task(tmp_path)
    groups = [{row.group for row in part} for part in task.splits().values()]
    assert 12 == sum(map(len, groups)) == len(set().union(*groups))


TMX = """<?xml version="1.0"?>{doctype}
<tmx version="1.4"><header srclang="en-US"/><body>
<tu><tuv xml:lang="en-US"><seg>Open <bpt i="1">&lt;b></bpt>this<ept i="1">&lt;/b></ept> file</seg></tuv>
<tuv xml:lang="fr"><seg>Ouvrir ce fichier</seg></tuv></tu>
<tu><tuv xml:lang="en-US"><seg>alone</seg></tuv></tu></body></tmx>"""


def test_translation_memories_are_read_without_markup(tmp_path):
    path = tmp_path / "memory.tmx"
    for doctype in ("", '<!DOCTYPE tmx SYSTEM "tmx14.dtd">'):
        path.write_text(TMX.format(doctype=doctype))
        assert [("Open this file", "Ouvrir ce fichier")] == seen(path)
    _, (row,) = read_examples(path, columns={"source": "fr", "target": "en"})
    assert ("Ouvrir ce fichier", "Open this file") == (row.text, row.label)
    with pytest.raises(TaskError, match="target de"):
        read_examples(path, columns={"target": "de"})


def test_declarations_in_xml_are_refused(tmp_path):
    path = tmp_path / "bomb.tmx"
    for inside in ('<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">', '<!ENTITY a SYSTEM "/etc/passwd">', ""):
        path.write_text(TMX.format(doctype=f"<!DOCTYPE tmx [{inside}]>"))
        with pytest.raises(TaskError, match="declares"):
            read_examples(path)
    path.write_text("<tmx><body>")
    with pytest.raises(TaskError, match="is not TMX"):
        read_examples(path)


def test_what_datasets_saved_is_read_with_the_names_of_its_classes(tmp_path):
    rows = [{"text": f"text {at}", "label": at % 2} for at in range(40)]
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
    save_to_disk(tmp_path, "train", classes(rows[:30], ["bad", "good"]))
    save_to_disk(tmp_path, "validation", classes(rows[30:], ["bad", "good"]))
    task = read_task(tmp_path)
    assert ("bad", "good") == task.labels
    assert ("no test split: dev is the test, and a new dev is split from train",) == task.notes
    assert [26, 4, 10] == [len(part) for part in task.splits().values()]
    alone = read_task(tmp_path / "train")
    assert [20, 4, 6] == [len(part) for part in alone.splits().values()]


def test_a_folder_may_hold_its_splits_in_any_form_and_several_files(tmp_path):
    for at in range(2):
        rows = [{"text": f"train {at} {n}", "label": n % 2} for n in range(20)]
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / f"train-{at:05d}-of-00002.parquet")
    rows = [{"text": f"test {n}", "label": n % 2} for n in range(20)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "test-00000-of-00001.parquet")
    task = read_task(tmp_path)
    assert [36, 4, 20] == [len(part) for part in task.splits().values()]
    assert 40 == len({row.group for part in (task.train, task.dev) for row in part})
    (tmp_path / "empty").mkdir()
    with pytest.raises(TaskError, match=r"(?s)holds no labelled set.*got:     no files"):
        read_task(tmp_path / "empty")


def refused(path: Path, **words: object) -> str:
    with pytest.raises(TaskError) as caught:
        read_task(path, **words)
    return str(caught.value)


def test_missing_columns_are_guessed_once_for_the_file(tmp_path):
    path = write_csv(tmp_path / "a.csv", "text,lable", *[[f"text {at}", "x"] for at in range(20)])
    said = refused(path)
    assert said == (
        f"{path} has no column 'label' (did you mean \"lable\"?)\n  got:     text, lable\n"
        "  allowed: for classification: text, label\n  next:    the same with --columns label=OWN"
    )
    assert "no column 'lbel' (did you mean \"lable\"?)" in refused(path, columns={"label": "lbel"})
    assert "no column 'rating'" in refused(path, kind="rating")


def test_bad_rows_of_tables_name_their_lines(tmp_path):
    cells = [["fine\nso far", "3"], ["", "4"], ["x" * MAX_CHARACTERS, "5"], ["x" * (MAX_CHARACTERS + 1), "1"]]
    path = write_csv(tmp_path / "a.csv", "text,rating", *cells, ["y", "good"])
    path.write_bytes(path.read_bytes() + b"\r\none,two,three\r\n")
    said = refused(path)
    assert "has 4 bad rows" in said
    for reason in (
        'line 4: "text" is empty',
        'line 6: "text" has 1,000,001 characters',
        "line 7: \"rating\" is 'good', not a number",
        "line 8: 3 fields, the header has 2",
    ):
        assert reason in said, said
    assert "allowed: rows with" in said


def test_other_encodings_and_damaged_files_are_refused(tmp_path):
    (tmp_path / "latin.csv").write_bytes("text,label\ncafé,x\n".encode("latin-1"))
    said = refused(tmp_path / "latin.csv")
    assert "is not UTF-8\n  got:     byte 0xe9 at line 2" in said
    assert "iconv -f WINDOWS-1252 -t UTF-8" in said
    (tmp_path / "wide.jsonl").write_bytes('{"text": "café", "label": "x"}\n'.encode("utf-16") * 20)
    said = refused(tmp_path / "wide.jsonl")
    assert "is not UTF-8\n  got:     UTF-16, by its first two bytes" in said
    assert "iconv -f UTF-16 -t UTF-8" in said
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "half.parquet").write_bytes(whole[: len(whole) // 2])
    assert "is damaged or not what its name says" in refused(tmp_path / "half.parquet")
    (tmp_path / "half.json").write_text('{"data": [')
    assert "is not JSON" in refused(tmp_path / "half.json")
    (tmp_path / "nulls.csv").write_bytes(b'text,label\n"open,x\n')
    assert "not CSV (unexpected end of data)" in refused(tmp_path / "nulls.csv")
    assert "cannot read" in refused(tmp_path / "missing.csv")


def test_wrong_types_in_columns_are_bad_rows(tmp_path):
    rows = [{"text": at, "label": 0.5} for at in range(3)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    said = refused(tmp_path / "a.parquet")
    assert "has 3 bad rows" in said
    assert 'row 1: "text" is a int, not text' in said


def test_weak_labels_are_for_training_only_and_counted(tmp_path):
    strong = [{"text": f"text {at}", "label": at % 2, "group": at} for at in range(100)]
    weak = [{"text": f"more {at}", "label": at % 2, "group": at, "weak": True} for at in range(50)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, strong + weak)))
    task = read_task(tmp_path / "a.jsonl")
    held = {row.group for part in (task.dev, task.test) for row in part}
    kept = sum(str(at) not in held for at in range(50))
    assert not any(row.weak for part in (task.dev, task.test) for row in part)
    assert kept == sum(row.weak for row in task.train)
    assert task.notes == (
        f"{50 - kept} weak labels left out: dev or test has their group",
        f"{kept} of {70 + kept} labels of train are weak: a rule or a model gave them",
    )
