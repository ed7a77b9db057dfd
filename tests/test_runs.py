"""Runs side by side, and the list of submissions: what a team keeps in a notebook otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from data_loader.split_file import valid_label_digests
from report.submissions import add_scores, read_ledger, record
from tests.test_mask_faces import refused
from tests.test_split import frame_of
from utils.config import config_from_dict
from utils.run_folder import lock

CONFIG = {
    "name": "faces",
    "dataset": {"type": "LabelCSV"},
    "arch": {"type": "FaceClassifier"},
    "optimizer": {"type": "AdamW"},
}


def config_of(**sections: object) -> dict:
    trainer = {"type": "SupervisedTrainer", "epochs": 3, "early_stop": 2, **sections.pop("trainer", {})}  # type: ignore[dict-item]
    return config_from_dict({**CONFIG, "trainer": trainer, **sections}, "test").to_dict()


def make_run(
    saved: Path,
    run_id: str,
    scores: list[float],
    hour: int = 0,
    valid: str = "a.jpg",
    head: str = "mask",
    **sections: object,
) -> Path:
    """A run's folder without checkpoints: with epochs of these macro F1 and one validation image."""
    run = saved / "faces" / run_id
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(config_of(**sections)))
    (run / "environment.json").write_text(json.dumps({"started": f"2026-01-01T{hour:02d}:00:00+00:00"}))
    (run / "split.csv").write_text(f"path,group,split,labeled\nb.jpg,b,train,True\n{valid},a,valid,True\n")
    if scores:
        rows = "".join(f"{n},{9 * n},{1 - f1},{f1},{f1}\n" for n, f1 in enumerate(scores, start=1))
        (run / "metrics.csv").write_text(f"epoch,step,valid/loss,valid/macro_f1,valid/{head}/macro_f1\n{rows}")
    return run


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A control and a variant with two seeds each, and four runs beside them."""
    saved = tmp_path / "saved"
    variant = {"loss": {"type": "focal", "args": {"gamma": 2.0}}}
    make_run(saved, "control", [0.5, 0.7, 0.6], hour=1, seed=0)
    make_run(saved, "control1", [0.5, 0.8, 0.75], hour=2, seed=1)
    make_run(saved, "focal", [0.8, 0.7, 0.75], hour=3, seed=0, **variant)
    make_run(saved, "focal1", [0.5, 0.6, 0.84], hour=4, seed=1, **variant)
    make_run(saved, "killed", [0.9], hour=5, seed=2, **variant)
    make_run(saved, "begun", [], hour=6)
    make_run(saved, "stopped", [0.4, 0.3, 0.2], hour=7, trainer={"epochs": 50})
    make_run(saved, "leaky", [0.99, 0.9, 0.9], hour=8, valid="b.jpg", head="age", seed=0)
    return saved


def lines_of(text: str) -> dict[str, str]:
    return {line.split()[0].partition("/")[2]: line for line in text.splitlines() if line.startswith("  faces/")}


def test_runs_are_listed_by_their_scores_with_what_was_changed(saved: Path, in_process):
    done = in_process("prepare.py", "runs", str(saved))
    assert done.code == 0, done.err
    lines = lines_of(done.out)
    assert list(lines) == ["leaky", "killed", "focal1", "control1", "focal", "control", "stopped", "begun"]
    assert lines["control"].split()[1:6] == ["finished", "3/3", "0.7000", "2", "0.6000"]
    assert lines["control"].endswith("(this one)") and lines["control1"].endswith("seed: 0 -> 1")
    assert 'loss.type: "cross_entropy" -> "focal"' in lines["focal"] and "seed" not in lines["focal"]
    assert lines["killed"].split()[1:3] == ["unfinished", "1/3"] and lines["begun"].split()[1:3] == [
        "unfinished",
        "0/3",
    ]
    assert lines["stopped"].split()[1:4] == ["stopped", "early", "3/50"]
    wrong = ["validated on other images", "of other heads (age)"]
    assert all(text in lines["leaky"] for text in wrong) and "!" not in "".join(lines[run] for run in list(lines)[1:])


def test_runs_with_several_seeds_are_averaged_and_compared_seed_by_seed(saved: Path, in_process):
    done = in_process("prepare.py", "runs", str(saved))
    focal, control = done.out.splitlines()[-2:]
    # (0.80 - 0.70, 0.84 - 0.80): 0.07 on average, 0.03 of standard error times t(0.975, 1); the killed run counts for
    # nothing.
    assert focal.split()[:10] == ["2", "0.8200", "±", "0.0283", "0.7950", "±", "0.0636", "+0.0700", "0.3812", "2"], (
        done.out
    )
    assert focal.endswith('loss.type: "cross_entropy" -> "focal"; loss.args.gamma: (absent) -> 2.0') or "gamma" in focal
    assert control.split()[:7] == ["2", "0.7500", "±", "0.0707", "0.6750", "±", "0.1061"] and control.endswith(
        "nothing"
    )


def test_only_comparable_runs_are_compared(saved: Path, in_process):
    """The reference's own experiment is found without it; a seed that was run twice is one seed; a group that was
    validated on other images has no difference."""
    make_run(saved, "first", [0.9], hour=0, seed=9)
    make_run(saved, "focal-again", [0.82], hour=9, seed=0, loss={"type": "focal", "args": {"gamma": 2.0}})
    log = "epoch,step,valid/macro_f1,valid/mask/macro_f1\n3,9,0.82,0.82\n"
    (saved / "faces" / "focal-again" / "metrics.csv").write_text(log)
    for seed in (0, 1):
        make_run(saved, f"other{seed}", [0.1, 0.1, 0.99], hour=10, valid="c.jpg", seed=seed, split={"seed": 5})
    done = in_process("prepare.py", "runs", str(saved))
    groups = {line.split("  ")[-1]: line for line in done.out.splitlines()[-3:]}
    other, focal, control = (" ".join(line.split()) for line in groups.values())
    assert "changed from faces/first" in done.out and control.startswith("2 0.7500")
    assert other.startswith("2 0.9900 ± 0.0000 0.9900 ± 0.0000 ! validated on other images; split.seed"), done.out
    assert focal.startswith("2 0.8300 ± 0.0141 0.8300 ± 0.0141 +0.0800 0.5082 2 loss.type"), done.out


def test_other_labels_of_the_same_images_are_told_for_the_heads_that_are_compared(saved: Path, in_process):
    """Three heads and one of all combinations are scored by the same labels where these are called alike."""
    frame = frame_of({"mask": [0, 1, 0], "gender": [1, 0, 1]})
    split = pd.Series(["valid", "valid", "train"])
    digests = valid_label_digests(frame, split)
    joined = replace(frame_of({"joint": [1, 2, 3]}), classes={"joint": ("m0/g0", "m0/g1", "m1/g0", "m1/g1")})
    named = replace(frame, classes={"mask": ("m0", "m1"), "gender": ("g0", "g1")})
    assert valid_label_digests(named, split)["joint"] == valid_label_digests(joined, split)["joint"]
    swapped = valid_label_digests(frame.with_rows(frame.rows.assign(gender=[0, 0, 1])), split)
    assert swapped["mask"] == digests["mask"] and swapped["gender"] != digests["gender"]
    assert valid_label_digests(frame.with_rows(frame.rows.assign(gender=[1, 0, 0])), split) == digests

    for name, labels in (("control", {"mask": "1", "age": "1"}), ("control1", {"mask": "1"}), ("focal", {"mask": "2"})):
        seen = saved / "faces" / name / "environment.json"
        seen.write_text(json.dumps({**json.loads(seen.read_text()), "valid_labels": labels}))
    lines = lines_of(in_process("prepare.py", "runs", str(saved)).out)
    assert "! validated by other labels" in lines["focal"] and "!" not in lines["control1"] + lines["focal1"]


def test_one_damaged_run_does_not_hide_the_others(saved: Path, in_process, monkeypatch):
    (saved / "faces" / "killed" / "metrics.csv").write_text("")
    with (saved / "faces" / "focal" / "metrics.csv").open("ab") as file:
        file.write(b"4,36,0.1\0\0\0\0")
    (saved / "submissions.csv").write_text("time\n")
    (saved / "exported").mkdir()
    (saved / "exported" / "config.json").write_text("{}")
    monkeypatch.chdir(saved / "faces")
    done = in_process("prepare.py", "runs", "..")
    assert done.code == 0 and {"focal", "control", "leaky"} < set(lines_of(done.out)), done.err
    wrong = [line for line in done.out.splitlines() if line.startswith("! left out")]
    assert len(wrong) == 3 and "killed" not in lines_of(done.out)
    monkeypatch.chdir(saved / "faces" / "control")
    assert list(lines_of(in_process("prepare.py", "runs", ".", "../focal").out)) == ["focal", "control"]


def test_another_metric_another_reference_and_a_table(saved: Path, tmp_path: Path, in_process):
    """By another metric a run keeps the epoch that it chose itself, whose weights are its best.pth."""
    out = tmp_path / "new" / "runs.csv"
    done = in_process(
        "prepare.py",
        "runs",
        str(saved / "faces"),
        "--metric",
        "valid/loss",
        "--against",
        "faces/focal",
        "--out",
        str(out),
    )
    assert done.code == 0, done.err
    table = pd.read_csv(out).set_index("run")
    assert (
        list(table.index[:2]) == ["faces/leaky", "faces/killed"]
        and abs(table.loc["faces/control", "best"] - 0.3) < 1e-9
    )
    assert table.loc["faces/control", "best_epoch"] == 2
    assert (
        set(table["loss.type"]) == {'"focal"', '"cross_entropy"'} and table.loc["faces/focal", "loss.type"] == '"focal"'
    )
    assert lines_of(done.out)["focal"].endswith("(this one)")
    one = in_process("prepare.py", "runs", str(saved / "faces" / "control"), str(saved / "faces" / "focal"))
    assert list(lines_of(one.out)) == ["focal", "control"]


def test_folds_are_one_row_and_a_run_being_trained_is_said_so(saved: Path, in_process, run):
    folds = saved / "faces" / "five"
    folds.mkdir()
    for fold in (1, 2):
        make_run(saved, f"five-fold{fold}", [0.1, 0.2, 0.3], hour=9)
    make_run(saved, "five-folder", [0.1, 0.2, 0.31], hour=9)
    scores = {"mean": {"mask": {"macro_f1": 0.65}}, "std": {"mask": {"macro_f1": 0.05}}}
    (folds / "folds.json").write_text(json.dumps({"folds": 2, "finished": True, "config": config_of(), **scores}))
    (saved / "faces" / "six").mkdir()
    (saved / "faces" / "six" / "folds.json").write_text(json.dumps({"folds": 6, "config": config_of()}))
    lock(saved / "faces" / "begun")
    shown = run("prepare.py", "runs", saved)
    lines = lines_of(shown.out)
    assert shown.code == 0 and {"five", "five-folder"} <= set(lines) and "five-fold1" not in lines, shown.err
    assert lines["five"].split()[1:7] == ["finished", "2", "folds", "0.6500", "±", "0.0500"]
    assert lines["begun"].split()[1] == "training" and lines["six"].split()[1:5] == ["unfinished", "6", "folds", "–"]
    assert "five-fold1" in in_process("prepare.py", "runs", str(saved / "faces" / "five-fold1")).out
    every = [str(folder) for folder in sorted((saved / "faces").iterdir())]
    assert list(lines_of(in_process("prepare.py", "runs", *every, "--metric", "lr").out or shown.out)) == list(lines)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("nowhere",), "nowhere: no such folder"),
        (("empty",), "empty: no runs in it"),
        (("saved", "--metric", "valid/macrof1"), "did you mean 'valid/macro_f1'?"),
        (("saved", "--against", "faces/controll"), "did you mean 'faces/control'?"),
        (("damaged",), "config.json: cannot be read"),
        (("foreign",), "config.json: is not the config of a run of this project"),
        (("torn",), "metrics.csv: the first line must begin with epoch,step"),
    ],
)
def test_what_is_no_run_is_said(saved: Path, tmp_path: Path, in_process, given: tuple[str, ...], message: str):
    for name in ("empty", "damaged", "foreign"):
        (tmp_path / name).mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    (tmp_path / "foreign" / "config.json").write_text('{"name": "x"}')
    (make_run(tmp_path, "torn", []).rename(tmp_path / "torn") / "metrics.csv").write_text('epoch,"\n')
    done = in_process("prepare.py", "runs", str(tmp_path / given[0]), *given[1:])
    assert done.code == 2 and message in done.err and "Traceback" not in done.err, done.err


# --- submissions -----------------------------------------------------------------------------------------------------


def submitted(saved: Path, name: str, run: str, valid: float, how: str = "", checkpoint: str = "best.pth") -> Path:
    file = saved.parent / name
    file.write_text(f"ImageID,ans\n{name},1\n")
    record(saved, file, [saved / run / "checkpoints" / checkpoint], [run], how, ("valid/macro_f1", valid))
    return file


def test_leaderboard_scores_are_kept_beside_ours(saved: Path, in_process):
    of_saved = ("--saved", str(saved))
    for name, run, valid, public in (
        ("a.csv", "control", 0.7, 0.65),
        ("b.csv", "focal", 0.8, 0.72),
        ("c.csv", "leaky", 0.99, 0.6),
    ):
        file = submitted(saved, name, f"faces/{run}", valid)
        done = in_process("prepare.py", "submissions", str(file), "--public", str(public), *of_saved)
        assert done.code == 0, done.err
    # Gaps 0.05, 0.08, 0.39; ranks 1 2 3 here and 2 3 1 there.
    assert "valid is 0.1733 above public on average of 3; their ranks correlate with -0.50" in done.out
    file.rename(moved := saved / "moved.csv")
    given = ("--private", "0.59123456", "--note", "of last week")
    done = in_process("prepare.py", "submissions", str(moved), *given, *of_saved)
    assert done.code == 0 and "0.99" in done.out and "+0.3900" in done.out and "# of last week" in done.out
    kept = read_ledger(saved)[-1]
    assert [kept[k] for k in ("public", "private", "note")] == ["0.6", "0.59123456", "of last week"]
    # What another checkpoint of a run scored, or one with further views, is not the score of its best one.
    for name, valid, how in (("d.csv", 0.75, ""), ("e.csv", 0.8, "tta hflip")):
        add_scores(saved, submitted(saved, name, "faces/focal", valid, how, "last.pth"), 0.1, 0.1, None)
    lines = lines_of(in_process("prepare.py", "runs", str(saved)).out)
    assert lines["leaky"].split()[6:8] == ["0.6", "0.59123456"] and lines["focal"].split()[6] == "0.72"
    assert "0.65" not in lines["control1"]


def test_a_submission_written_again_keeps_its_scores(saved: Path):
    file = submitted(saved, "a.csv", "faces/control", 0.8)
    add_scores(saved, file, 0.7, None, None)
    other = submitted(saved, "b.csv", "faces/focal", 0.9)
    submitted(saved, "a.csv", "faces/control", 0.8)
    assert [(row["file"], row["public"]) for row in read_ledger(saved)] == [(str(other), ""), (str(file), "0.7")]
    # Other models with the same answers have a line of their own, and the same score.
    submitted(saved, "a.csv", "faces/focal", 0.9)
    assert [(row["runs"], row["valid"], row["public"]) for row in read_ledger(saved)[1:]] == [
        ("faces/control", "0.800000", "0.7"),
        ("faces/focal", "0.900000", "0.7"),
    ]


def test_a_list_that_was_edited_elsewhere_is_kept_or_refused_whole(saved: Path):
    file = submitted(saved, "a.csv", "faces/control", 0.8)
    ledger = saved / "submissions.csv"
    header, row = ledger.read_text().splitlines()
    ledger.write_bytes(f"\ufeff{header},owner\r\n{row},Ana,\r\n".encode())
    add_scores(saved, file, 0.7, None, None)
    assert [(r["owner"], r["public"], r["file"]) for r in read_ledger(saved)] == [("Ana", "0.7", str(file))]
    damaged = {
        ledger.read_text().replace("0.7", "'0,7'"): "line 2: public: expected a number such as 0.7412, found ''0'",
        ledger.read_text().replace(",0.7,", ",high,"): "line 2: public: expected a number such as 0.7412, found 'high'",
        ledger.read_text().replace(",", ";"): "has no column 'time'; expected a table with commas",
    }
    for text, message in damaged.items():
        ledger.write_text(text)
        said = refused(add_scores, saved, file, 0.9, None, None)
        assert message in said or "more cells" in said, said
        assert ledger.read_text() == text


def test_scores_of_no_submission_are_refused(saved: Path, tmp_path: Path):
    file = submitted(saved, "a.csv", "faces/control", 0.8)
    file.write_text("ImageID,ans\na.csv,2\n")
    said = refused(add_scores, saved, file, 0.7, None, None)
    assert "submissions.csv does not know it; the one called so" in said and "had another content" in said
    assert "--public 71: expected a macro F1 from 0 to 1" in refused(add_scores, saved, file, 71, None, None)
    assert "no such submission" in refused(add_scores, saved, tmp_path / "none.csv", 0.7, None, None)
    for place in (tmp_path / "none", file):
        assert "no such folder" in refused(read_ledger, place)
        assert "no such folder" in refused(add_scores, place, file, 0.7, None, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--public", "0.7"), "name its file"),
        (("a.csv",), "what did it score?"),
    ],
)
def test_half_a_command_is_refused(tmp_path: Path, in_process, given: tuple[str, ...], message: str):
    done = in_process("prepare.py", "submissions", *given, "--saved", str(tmp_path))
    assert done.code == 2 and message in done.err
    assert "nothing was submitted yet" in in_process("prepare.py", "submissions", "--saved", str(tmp_path)).out
