"""Reading runs: what is accepted, and the one error that each bad file gives."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.errors import LawError
from stepladder.laws.table import MAX_POINTS, read_observations
from stepladder.laws.targets import read_targets
from stepladder.records import Observation

GOOD = "params,tokens,loss\n1e6,2e7,3.5\n2e6,4e7,3.2\n"


def write(tmp_path, content, name="runs.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


BAD = {
    "missing": (
        "N,tokens,val_loss\n1,2,3\n",
        'runs.csv lacks the columns params, loss\n  got:     n (did you mean "params"?), tokens, '
        "val_loss (did "
        'you mean "loss"?)\n  allowed: params, tokens and loss (or loss_nats_per_token, loss_bits_per_byte)',
    ),
    "typo": (
        "parms,tokens,loss\n1,2,3\n",
        'runs.csv lacks the column params\n  got:     parms (did you mean "params"?), tokens, loss\n'
        "  allowed: params, tokens and loss (or loss_nats_per_token, loss_bits_per_byte)",
    ),
    "nan": (
        "params,tokens,loss\n1e6,2e7,nan\n2e6,4e7,\n",
        "runs.csv has values of loss that no law can be fitted to\n  got:     line 2: nan, line 3: empty\n"
        "  allowed: finite numbers above zero; a run to be left out gets weight 0",
    ),
    "negative": (
        "params,tokens,loss\n1e6,-2e7,3\n2e6,0,3\n",
        "runs.csv has values of tokens that no law can be fitted to\n  got:     line 2: -2e7, line 3: 0\n"
        "  allowed: finite numbers above zero; a run to be left out gets weight 0",
    ),
    "thousands": (
        'params,tokens,loss\n"1,000,000",2e7,3\n',
        "runs.csv, line 2: params is not a number\n  got:     '1,000,000'\n  allowed: a plain number such as "
        "1000000 or 1e6, no thousands separators, a point for decimals",
    ),
    "bare thousands": (
        "params,tokens,loss\n1,000,000,2e7,3\n",
        "runs.csv, line 2: 5 cells under 3 column names\n  got:     1,000,000,2e7,3\n  allowed: as "
        "many cells as "
        "columns; numbers without thousands separators (1000000 or 1e6)",
    ),
    "semicolons": (
        "params;tokens;loss\n1;2;3,5\n",
        "runs.csv separates columns by semicolons\n  got:     params;tokens;loss\n  allowed: commas between "
        "columns, points in decimals\n  next:    export it again as comma-separated values",
    ),
    "two losses": (
        "params,tokens,loss_nats_per_token,loss_bits_per_byte\n1,2,3,4\n",
        "runs.csv has more than one loss column\n  got:     loss_nats_per_token, "
        "loss_bits_per_byte\n  allowed: "
        "one, or --loss-unit to choose\n  next:    stepladder fit runs.csv --loss-unit nats_per_token",
    ),
    "mixed units": (
        "params,tokens,loss,loss_unit\n1,2,3,nats_per_token\n1,3,3,bits_per_byte\n",
        "runs.csv has losses in more than one unit\n  got:     loss_unit says bits_per_byte, nats_per_token\n"
        "  allowed: one unit for all runs: nats_per_token or bits_per_byte",
    ),
    "empty": (
        "",
        "runs.csv is empty\n  allowed: a header with params,tokens,loss and one row a run",
    ),
    "header only": (
        "params,tokens,loss\n",
        "runs.csv has no usable run\n  allowed: one row a run, at least three of them",
    ),
    "latin1": (
        "params,tokens,loss,run\n1,2,3,größe\n".encode("latin1"),
        "runs.csv is not UTF-8 text\n  got:     byte 0xf6 that no UTF-8 character starts with\n  "
        "allowed: a CSV "
        "file in UTF-8\n  next:    iconv -f LATIN1 -t UTF-8 runs.csv > runs.utf8.csv",
    ),
    "utf16": (
        GOOD.encode("utf-16"),
        "runs.csv is not UTF-8 text\n  got:     UTF-16 or binary data (a spreadsheet file?)\n  "
        "allowed: a CSV file "
        "in UTF-8\n  next:    iconv -f UTF-16 -t UTF-8 runs.csv > runs.utf8.csv",
    ),
    "same name": (
        "params,tokens,loss,loss\n1,2,3,3\n",
        "runs.csv has columns of the same name\n  got:     loss",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_each_bad_file_gives_one_clear_error(tmp_path, case):
    content, text = BAD[case]
    with pytest.raises(LawError) as caught:
        read_observations(write(tmp_path, content))
    assert str(caught.value) == text


def test_missing_file(tmp_path):
    with pytest.raises(LawError) as caught:
        read_observations(tmp_path / "absent.csv")
    assert str(caught.value) == "cannot read absent.csv\n  got:     No such file or directory"


def test_byte_order_mark_blank_lines_and_extra_columns_are_accepted(tmp_path):
    text = "\ufeffrun,params,tokens,loss_bits_per_byte,lr,colour\n"
    text += "a,1e6,2e7,3.5,0.1,red\n\nb,2e6,4e7,3.2,0.2,blue\n"
    table = read_observations(write(tmp_path, text))
    assert table.run == ("a", "b")
    assert table.loss_unit == "bits_per_byte"
    assert table.extra["lr"] == [0.1, 0.2]
    assert table.notes == ("columns not used: colour",)
    assert np.all(np.isnan(table.flops))


def test_weight_zero_leaves_a_run_out_even_without_a_loss(tmp_path):
    table = read_observations(write(tmp_path, "params,tokens,loss,weight\n1,2,3,1\n1,4,nan,0\n1,4,2.5,\n"))
    assert list(table.weight) == [1.0, 1.0]
    assert table.notes == ("1 runs of weight 0 left out",)


def test_equal_rows_merge_and_replicates_stay(tmp_path):
    text = "params,tokens,loss,seed\n1,2,3,0\n1,2,3,0\n1,2,3.01,1\n"
    table = read_observations(write(tmp_path, text))
    assert len(table) == 2
    assert table.notes == ("1 repeated rows merged with an equal one",)


def test_a_long_table_is_sampled_and_says_so(tmp_path):
    count = MAX_POINTS + 500
    lines = [f"{1e6 + i},{2e7 + i},{3 + i / count}" for i in range(count)]
    table = read_observations(write(tmp_path, "params,tokens,loss\n" + "\n".join(lines) + "\n"))
    assert len(table) == MAX_POINTS
    assert table.notes == (
        f"{MAX_POINTS} of {count} rows used, drawn at random, the dearest 1 % always kept",
    )
    assert table.params.max() == 1e6 + count - 1


def test_unknown_loss_unit():
    with pytest.raises(LawError, match='did you mean "bits_per_byte"'):
        read_observations([Observation(run="a", params=1, tokens=1, loss=1)], "bits_per_bite")


def test_targets(tmp_path):
    targets = read_targets(
        write(tmp_path, "run,params,tokens,unique_tokens\nbig,1e9,2e10,\n,1e9,2e10,1e10\n")
    )
    assert [(t.run, t.params, t.tokens, t.unique_tokens) for t in targets] == [
        ("big", 1e9, 2e10, None),
        ("target2", 1e9, 2e10, 1e10),
    ]
    with pytest.raises(LawError, match=r"values of params"):
        read_targets(write(tmp_path, "params,tokens\n0,1\n"))
    with pytest.raises(LawError, match=r"has a header and no rows"):
        read_targets(write(tmp_path, "params,tokens\n"))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(*(st.floats(min_value=1e-3, max_value=1e20, allow_nan=False) for _ in range(3))),
        min_size=1,
        max_size=8,
        unique=True,
    )
)
def test_what_is_written_is_read(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("csv") / "runs.csv"
    path.write_text("params,tokens,loss\n" + "".join(f"{n!r},{d!r},{y!r}\n" for n, d, y in values))
    table = read_observations(path)
    assert sorted(zip(table.params, table.tokens, table.loss, strict=True)) == sorted(values)
    assert all(math.isnan(item) for item in table.unique_tokens)
