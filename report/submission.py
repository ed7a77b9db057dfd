"""The mask competition's submission file: one of 18 labels for every evaluation image, checked before it is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from report.evaluation import HeadPrediction
from utils.errors import UserError
from utils.files import atomic_write
from utils.joint import JOINT

ANSWERS = 18
PARTS = {"mask": ("wear", "incorrect", "normal"), "gender": ("male", "female")}


def write_submission(info_csv: Path | str, predictions: pd.DataFrame | Mapping[str, Any], out: Path | str) -> list[int]:
    """Write `ImageID,ans` with the rows of info.csv in its order; returns how often each answer 0 … 17 is given.

    predictions: ImageID → answer, or a table with the columns ImageID and ans; its order means nothing.
    Raises UserError, and writes nothing, if an image has no answer or two, if there is an answer for another image, or
    if one is not a whole number from 0 to 17.
    """
    names = read_image_ids(Path(info_csv))
    answers = _answers(predictions)
    absent = [name for name in names if name not in answers]
    extra = sorted(set(answers) - set(names))
    problems = [f"{len(absent):,} images without an answer (such as {absent[0]})"] if absent else []
    problems += [f"{len(extra):,} answers for images that are not in it (such as {extra[0]})"] if extra else []
    wrong = [(name, answers[name]) for name in names if name in answers and not _is_answer(answers[name])]
    if wrong:
        name, answer = wrong[0]
        problems.append(f"{len(wrong):,} answers that are not whole numbers from 0 to 17 (such as {answer} for {name})")
    if problems:
        raise UserError(f"submission for {info_csv}: {'; '.join(problems)}")
    values = [int(answers[name]) for name in names]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    atomic_write(Path(out), "".join(["ImageID,ans\n", *(f"{name},{ans}\n" for name, ans in zip(names, values))]))
    return np.bincount(values, minlength=ANSWERS).tolist()


def read_image_ids(info_csv: Path) -> list[str]:
    """The images of info.csv in its order, blanks around them left out.

    Raises UserError if there is no such table, an ImageID is blank, or an image is in it twice.
    """
    try:
        table = pd.read_csv(info_csv, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{info_csv}: no such file") from None
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{info_csv}: not a table: {error}") from None
    table.columns = [str(name).strip() for name in table.columns]
    table = table.fillna("").apply(lambda column: column.str.strip())
    table = table[(table != "").any(axis=1)]
    if list(table.columns) != ["ImageID", "ans"] or not len(table):
        raise UserError(f"{info_csv}: expected rows with the columns ImageID, ans, found {', '.join(table.columns)}")
    blank = int((table["ImageID"] == "").sum())
    if blank:
        raise UserError(f"{info_csv}: {blank:,} rows have no ImageID")
    repeated = table["ImageID"][table["ImageID"].duplicated()]
    if len(repeated):
        raise UserError(f"{info_csv}: {len(repeated):,} images are listed twice (such as {repeated.iloc[0]})")
    return table["ImageID"].tolist()


def joint_answers(heads: Sequence[HeadPrediction]) -> np.ndarray:
    """Answers int64 [N] = mask * 6 + gender * 3 + age from heads on the same images, as `combine` gives them.

    Either one head `joint` of 18 classes, or mask, gender and age. The classes of mask and gender are told by their
    names, in whatever order, and those of age where they are called `<30`, `30-59`, `>=60`; else these are taken in
    order. Raises UserError for other heads or names.
    """
    voted = {head.name: head for head in heads}
    if set(voted) == {JOINT}:
        return _joint_answer(voted[JOINT])
    if set(voted) != {*PARTS, "age"}:
        raise UserError(
            f"a submission needs a head joint, or the heads mask, gender and age; found {', '.join(sorted(voted))}"
        )
    if len(voted["age"].classes) != 3:
        raise UserError(f"head 'age': a submission needs three classes, found {', '.join(voted['age'].classes)}")
    mask, gender = (_by_name(voted[name], names) for name, names in PARTS.items())
    return mask * 6 + gender * 3 + _ranks(voted["age"].classes)[voted["age"].predictions]


def _ranks(ages: Sequence[str]) -> np.ndarray:
    """Int64 [C], each class's place by age: by names such as `<30`, `30-59`, `>=60`; of other names as they are."""
    if not all(re.fullmatch(r"<\d+|\d+-\d+|>=\d+", name) for name in ages):
        return np.arange(len(ages))
    first = [-1 if name.startswith("<") else int(re.findall(r"\d+", name)[0]) for name in ages]
    return np.argsort(np.argsort(first))


def _joint_answer(head: HeadPrediction) -> np.ndarray:
    """A joint head's classes are `wear/male/<30` … in order of their answers, or the answers themselves."""
    numbers = [str(answer) for answer in range(ANSWERS)]
    parts = [name.rpartition("/")[0] for name in head.classes]
    named = [f"{mask}/{gender}" for mask in PARTS["mask"] for gender in PARTS["gender"] for _ in range(3)]
    ages = [name.rpartition("/")[2] for name in head.classes[:3]]
    rising = list(_ranks(ages)) == [0, 1, 2]
    if list(head.classes) != numbers and (parts != named or not rising):
        raise UserError(
            f"head 'joint': a submission needs the {ANSWERS} classes {named[0]}/AGE … {named[-1]}/AGE, or 0 … 17, in "
            f"this order; found {', '.join(head.classes[:4])}, …"
        )
    return head.predictions


def _by_name(head: HeadPrediction, names: tuple[str, ...]) -> np.ndarray:
    """Predictions as indices into `names`."""
    if set(head.classes) != set(names):
        raise UserError(
            f"head '{head.name}': a submission needs the classes {', '.join(names)}, found {', '.join(head.classes)}"
        )
    return np.array([names.index(name) for name in head.classes])[head.predictions]


def _answers(predictions: pd.DataFrame | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(predictions, pd.DataFrame):
        return dict(predictions)
    if not {"ImageID", "ans"} <= set(predictions.columns):
        raise UserError(
            f"a submission needs the columns ImageID and ans, got {', '.join(map(str, predictions.columns))}"
        )
    repeated = predictions["ImageID"][predictions["ImageID"].duplicated()]
    if len(repeated):
        raise UserError(f"submission: {len(repeated):,} images have two answers (such as {repeated.iloc[0]})")
    return dict(zip(predictions["ImageID"], predictions["ans"]))


def _is_answer(value: Any) -> bool:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return bool(number and value == value // 1 and 0 <= value < ANSWERS)
