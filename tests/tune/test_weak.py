import json

import pytest

from stepladder.cli import EXIT_USER_ERROR, main
from stepladder.errors import TaskError
from stepladder.tune.pool import PoolRow
from stepladder.tune.tasks import load_task, read_task, write_task
from stepladder.tune.weak import agreement_of, read_rules, vote, with_weak

LABELS = ("fruit", "tool")
RULES = {
    "r.json": '{"fruit": ["apple", "plum"], "tool": "saw"}',
    "r.toml": 'fruit = ["apple", "plum"]\ntool = "saw"\n',
    "r.csv": "label,pattern\nfruit,apple\nfruit,plum\ntool,saw\n",
}


@pytest.mark.parametrize("name", RULES)
def test_rules_of_all_forms_are_the_same(tmp_path, name):
    (tmp_path / name).write_text(RULES[name])
    rules = read_rules(tmp_path / name, LABELS)
    assert [("fruit", "apple"), ("fruit", "plum"), ("tool", "saw")] == [
        (rule.label, rule.pattern.pattern) for rule in rules
    ]
    assert vote(rules, "An APPLE") == "fruit"
    assert vote(rules, "an apple, a saw") == ""
    assert vote(rules, "apple and plum and saw") == "fruit"
    assert vote(rules, "nothing") == ""


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("r.json", '{"froit": ["a"], "tool": ["("]}', "rule 2: '(' is no pattern"),
        ("r.json", '{"froit": ["a"]}', "rule 1: unknown label 'froit' (did you mean \"fruit\"?)"),
        ("r.json", '{"tool": [""]}', "rule 1: '' is no pattern (empty)"),
        ("r.json", '["a"]', "cannot read rules"),
        ("r.json", '{"tool": [1]}', "patterns of 'tool' are not texts"),
        ("r.csv", "name,pattern\na,b\n", "header name,pattern"),
        ("r.csv", "label,pattern\ntool,a,b\n", "line 2 has not two cells"),
        ("r.toml", "tool = ", "cannot read rules"),
        ("r.json", "{}", "holds no rules"),
    ],
)
def test_rules_that_cannot_be_used_are_refused(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(TaskError) as caught:
        read_rules(tmp_path / name, LABELS)
    assert said in str(caught.value)


def test_agreement_counts_where_both_are():
    found = agreement_of(["a", "", "b", "b"], ["a", "a", "a", ""])
    assert (found.gold, found.labelled, found.right) == (3, 2, 1)
    assert found.text == (
        "2 of 3 gold labels have a weak one beside them; they agree in 50.0% (95 % from 9.5% to 90.5%)"
    )
    assert "is not known" in agreement_of(["", "a"], ["a", ""]).text


def test_weak_rows_are_flagged_and_only_trained_on(tmp_path, word_task):
    pool = [PoolRow(id=str(at), text=f"pool {at}", group=f"pool {at}") for at in range(3)]
    made = with_weak(word_task, pool, ["fruit", "", "tool"], "rules r.json", "more")
    assert (made.dev, made.test) == (word_task.dev, word_task.test)
    added = [one for one in made.train if one.weak]
    assert [("pool 0", "fruit"), ("pool 2", "tool")] == [(one.text, one.label) for one in added]
    assert f"2 of {len(made.train)} labels of train are weak: a rule or a model gave them" in made.notes
    write_task(made, tmp_path / "more")
    assert {one.weak_source for one in load_task(tmp_path / "more").train} == {"", "rules r.json"}
    assert load_task(tmp_path / "more").fingerprint == made.fingerprint
    with pytest.raises(TaskError, match="labels none of 3 texts"):
        with_weak(word_task, pool, ["", "", ""], "rules r.json", "more")


def test_weak_labels_of_dev_and_test_files_judge_nothing(tmp_path):
    for split, count in (("train", 40), ("dev", 10), ("test", 10)):
        rows = [{"text": f"{split} {at}", "label": at % 2, "weak": at < 4} for at in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = read_task(tmp_path)
    assert (len(task.train), len(task.dev), len(task.test)) == (40, 6, 6)
    assert "4 weak labels left out of test: they judge nothing" in task.notes
    (tmp_path / "dev.jsonl").unlink()
    again = read_task(tmp_path)
    assert not any(one.weak for part in (again.dev, again.test) for one in part)
    assert sum(one.weak for one in again.train) == 4


def test_the_verb_writes_a_set_and_says_how_rules_agree(tmp_path, word_task, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_task(word_task, tmp_path / "set")
    (tmp_path / "r.json").write_text(RULES["r.json"])
    pool = [{"text": "new plum"}, {"text": "new saw"}, {"text": "new river"}]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, pool)))
    words = ["data", "labels", "weak", "pool.jsonl", "--set", "set", "--out", "more"]
    assert main(words) == EXIT_USER_ERROR
    assert "got:     neither" in capsys.readouterr().err
    assert main([*words, "--rules", "r.json"]) == 0
    said = capsys.readouterr().out
    assert "they agree in 100.0%" in said
    assert "2 of 3 texts of a pool got a weak label from rules r.json" in said
    assert sum(one.weak for one in load_task(tmp_path / "more").train) == 2
