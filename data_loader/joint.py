"""The joint label: one class for every combination of mask, gender and age, and the way back to the three."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from data_loader.label_frame import LabelFrame
from utils.errors import UserError
from utils.joint import JOINT

PARTS = ("mask", "gender", "age")
MASK = ("wear", "incorrect", "normal")
GENDER = ("male", "female")


def joint_label(mask: Any, gender: Any, age: Any, ages: int = 3) -> Any:
    """mask * 6 + gender * 3 + age, for whole numbers or int arrays [N]; -1 where one of them is -1.

    ages: number of age classes; 3 gives the competition's 18 labels.
    """
    label = (np.asarray(mask) * len(GENDER) + gender) * ages + age
    known = (np.asarray(mask) >= 0) & (np.asarray(gender) >= 0) & (np.asarray(age) >= 0)
    joined = np.where(known, label, -1)
    return joined if joined.ndim else int(joined)


def joint_parts(label: Any, ages: int = 3) -> tuple[Any, Any, Any]:
    """(mask, gender, age) of joint labels ≥ 0, the inverse of `joint_label`."""
    return label // ages // len(GENDER), label // ages % len(GENDER), label % ages


def joint_names(parts: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """`wear/male/<30` …, the last part running fastest."""
    return tuple("/".join(names) for names in product(*parts))


def join_attributes(frame: LabelFrame) -> LabelFrame:
    """The attribute `joint` in place of those of mask, gender and age that the frame has, which stay as raw columns of
    class names. The last of them runs fastest, as in the competition's label."""
    parts = [part for part in PARTS if part in frame.classes]
    names = {part: np.array([*frame.classes[part], None], dtype=object)[frame.rows[part]] for part in parts}
    others = {name: classes for name, classes in frame.classes.items() if name not in parts}
    labels = np.stack([frame.rows[part].to_numpy(np.int64) for part in parts])
    joint = np.ravel_multi_index(tuple(labels.clip(min=0)), tuple(len(frame.classes[part]) for part in parts))
    head = frame.rows[["path", "group"]].assign(**{JOINT: np.where((labels >= 0).all(axis=0), joint, -1)})
    rest = frame.rows.drop(columns=["path", "group", *parts])
    classes = {JOINT: joint_names([frame.classes[part] for part in parts]), **others}
    unused = {**frame.unused, **{part: frame.classes[part] for part in parts}}
    return replace(frame, rows=head.join(rest).assign(**names), classes=classes, unused=unused)


def split_joint(frame: LabelFrame) -> LabelFrame:
    """Undo `join_attributes`: its attributes in place of `joint`, even of rows whose joint label is unknown.

    Raises UserError if the joint classes are no longer the combinations of these.
    """
    parts = [part for part in PARTS if part in frame.rows.columns]
    names = [tuple(dict.fromkeys(part)) for part in zip(*(name.split("/") for name in frame.classes[JOINT]))]
    apart = set(PARTS) & set(frame.classes)  # of another data set
    if apart or len(names) != len(parts) or joint_names(names) != frame.classes[JOINT]:
        raise UserError(
            f"the classes of '{JOINT}' are not the combinations of {', '.join(parts)}; merge them in the reader's "
            "attributes, or leave out what works on one of them"
        )
    rows = frame.rows.drop(columns=[JOINT])
    for part, classes in zip(parts, names):
        position = {name: index for index, name in enumerate(classes)}
        rows[part] = np.array([position.get(cell, -1) for cell in rows[part]], dtype=np.int64)
    first = ["path", "group", *parts]
    rows = rows[[*first, *(name for name in rows.columns if name not in first)]]
    others = {name: classes for name, classes in frame.classes.items() if name != JOINT}
    unused = {name: classes for name, classes in frame.unused.items() if name not in parts}
    return replace(frame, rows=rows, classes={**dict(zip(parts, names)), **others}, unused=unused)


def on_parts(frame: LabelFrame, change: Callable[[LabelFrame], LabelFrame]) -> LabelFrame:
    """`change` applied to mask, gender and age (those there are), whether attributes of the frame or joined in one."""
    return join_attributes(change(split_joint(frame))) if JOINT in frame.classes else change(frame)
