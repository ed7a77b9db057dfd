"""Two people's labels of the same images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.fixture
def tables(tmp_path: Path) -> list[str]:
    """40 images of classes 0, 1 and 2: the second person tells 2 apart, and 0 from 1 by chance; 3 are blank there."""
    first = [0] * 10 + [1] * 10 + [2] * 20
    second = [0] * 5 + [1] * 5 + [0] * 5 + [1] * 5 + [2] * 20
    cells = ["", "nan", " ", *(f"{label}.0" for label in second[3:])]
    rows = [f"p{n}.jpg,{a},x" for n, a in enumerate(first)]
    one = written(tmp_path, "a.csv", "\n".join(["path,hair,note", *rows, "only.jpg,1,x"]) + "\n")
    rows = [f"p{n}.jpg,{b},{n}" for n, b in enumerate(cells)]
    return [one, written(tmp_path, "b.csv", "\n".join(["path,hair,note", *reversed(rows)]) + "\n")]


def test_agreement_is_beyond_chance_and_the_confused_classes_are_named(tables, tmp_path, in_process):
    out = tmp_path / "new" / "differ.csv"
    done = in_process("prepare.py", "agreement", *tables, "--columns", "hair", "--out", str(out))
    assert done.code == 0, done.err
    # Of 37: 7 + 20 agree; 0 and 1 by confusion [[2, 5], [5, 5]] of 17.
    share, chance = 27 / 37, (7 * 7 + 10 * 10 + 20 * 20) / 37**2
    kappa = (share - chance) / (1 - chance)
    pair = (7 / 17 - (7 * 7 + 10 * 10) / 17**2) / (1 - (7 * 7 + 10 * 10) / 17**2)
    assert f"hair: 37 images labeled by both, 73.0% alike, kappa {kappa:.3f}; labeled by one only: 3 and 0" in done.out
    assert f"'0' and '1'; of 17 images that are one of them, kappa {pair:.3f}" in done.out
    assert "! weak: settle what tells '0' from '1', or make them one with labels.merge.hair" in done.out
    assert [line.split() for line in done.out.splitlines()[-4:-1]] == [
        ["0", "2", "5", "0"], ["1", "5", "5", "0"], ["2", "0", "0", "20"]
    ]  # fmt: skip
    table = pd.read_csv(out, dtype=str, keep_default_na=False)
    assert list(table) == ["path", "field", "from", "to", "other"] and len(table) == 10
    assert set(table["path"]) == {f"p{n}.jpg" for n in range(5, 15)} and set(table["to"]) == {""}
    assert np.array_equal(table["from"] == "0", table["other"] == "1")


def test_tables_that_agree_or_cannot_be_compared(tables, tmp_path, in_process):
    same = in_process("prepare.py", "agreement", tables[0], tables[0], "--out", str(tmp_path / "o.csv"))
    assert (
        same.code == 0 and "100.0% alike, kappa 1.000" in same.out and "note: " in same.out and "weak" not in same.out
    )
    assert "only one class is used" in same.out and "0 labels that differ" in same.out
    other = written(tmp_path, "c.csv", "path,hair\nq.jpg,1\n")
    twice = written(tmp_path, "d.csv", "path,hair\np1.jpg,1\np1.jpg,2\n")
    none = written(tmp_path, "e.csv", "picture,hair\np1.jpg,1\n")
    for second, more, message in (
        (other, (), "have no image in common by 'path' (such as p0.jpg and q.jpg)"),
        (twice, (), "listed more than once with different labels"),
        (none, (), "have none of the columns path, file, id in common; name it with --key"),
        (tables[1], ("--columns", "hairs"), "no column 'hairs'; did you mean 'hair'?"),
        (str(tmp_path / "nix.csv"), (), "nix.csv: no such file"),
    ):
        done = in_process("prepare.py", "agreement", tables[0], second, *more, "--out", str(tmp_path / "o.csv"))
        assert done.code == 2 and message in done.err and "Traceback" not in done.err, done.err
