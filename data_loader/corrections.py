"""Label corrections as an overlay: a CSV applied to what the readers give, while files and tables stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data_loader.correction_overlay import Overlay
from data_loader.correction_rows import (
    CONFLICTING,
    STATUSES,
    UNMATCHED,
    Conflict,
    Correction,
    Unmatched,
    Verdict,
    read_corrections,
    summary,
)
from data_loader.label_frame import LabelFrame
from utils.errors import UserError, did_you_mean

KEY = "labels.corrections"
_MOST = 10


def apply_corrections(frame: LabelFrame, file: str) -> LabelFrame:
    """The frame with the corrections of a CSV: columns path or id, field, from, to; other columns are for people.

    file: relative to the data set's root or to the working directory. path: an image, or a person's folder. id: the
    text of a person's id, exactly; several persons with this id are an error. from: what the label must be now; blank,
    '-' or '?' leave that open. to: `unsure` or '?' = unlabeled, `drop` = the images are left out, else
    - field ATTRIBUTE (or a raw column): a class name. Where a class of age does not fit the years, these are unknown;
    - field years or age: whole years, from which the age class is derived anew;
    - field mask of a person: from says which photos, by file stem or class. From `incorrect_mask` to `normal`, the
      reverse, or `swap` from `a<->b` exchanges the labels of two photos: by their names, so twice is as good as once.
    Raises UserError, listing the rows, if one matches no image, contradicts the data or another row, or is unclear.
    """
    frames, said = correct_data_sets({"": frame}, file)
    return frames[""].note(said)


def correct_data_sets(frames: Mapping[str, LabelFrame], file: str) -> tuple[dict[str, LabelFrame], str]:
    """`apply_corrections` for what every reader gives, and a line for the log. frames: by the name of the data set,
    with which every path in the file begins; the only one may be called ''."""
    place = _locate(frames, file)
    overlays = {name: Overlay(frame) for name, frame in frames.items()}
    verdicts = _judge(overlays, place)
    text = summary(place, verdicts)
    problems = [str(verdict) for status in STATUSES[2:] for verdict in verdicts if verdict.status == status]
    if problems:
        more = [f"… and {len(problems) - _MOST:,} more"] if len(problems) > _MOST else []
        raise UserError("\n  ".join([text, *problems[:_MOST], *more]))
    corrected = {name: overlay.corrected() for name, overlay in overlays.items()}
    changed, unsure, dropped = (
        sum(getattr(tally, what) for _, tally in corrected.values()) for what in ("changed", "unsure", "dropped")
    )
    text += f"; {changed:,} images changed, {unsure:,} made unsure, {dropped:,} dropped"
    return {name: frame for name, (frame, _) in corrected.items()}, text


def audit_corrections(frames: Mapping[str, LabelFrame], file: str) -> tuple[list[Verdict], str]:
    """What `correct_data_sets` would do with each row of the file, and a summary; changes and refuses nothing."""
    place = _locate(frames, file)
    verdicts = _judge({name: Overlay(frame) for name, frame in frames.items()}, place)
    return verdicts, summary(place, verdicts)


def _locate(frames: Mapping[str, LabelFrame], file: str) -> Path:
    roots = [frame.root for frame in frames.values()]
    there = [
        path for path in dict.fromkeys([*(root / file for root in roots), Path(file).expanduser()]) if path.is_file()
    ]
    if len(there) > 1 and len(roots) > 1:
        raise UserError(f"{KEY}: '{file}' may be {' or '.join(map(str, there))}; write the path of one of them")
    if there:
        return there[0]
    tables = [p.name for root in roots for p in root.glob("*.csv") if not p.name.startswith("._")]
    where = ", ".join([f"in {root}" for root in dict.fromkeys(roots)])
    raise UserError(f"{KEY}: no file '{file}' {where} or in {Path.cwd()}{did_you_mean(Path(file).name, tables)}")


def _judge(overlays: Mapping[str, Overlay], file: Path) -> list[Verdict]:
    """Every row of the file planned or refused, in its order."""
    verdicts = []
    for correction in read_corrections(file):
        try:
            name, path = _data_set_of(correction, overlays)
            verdicts.append(overlays[name].plan(correction, path))
        except Unmatched as error:
            verdicts.append(Verdict(correction, UNMATCHED, why=str(error)))
        except Conflict as error:
            verdicts.append(Verdict(correction, CONFLICTING, why=str(error)))
    return verdicts


def _data_set_of(correction: Correction, overlays: Mapping[str, Overlay]) -> tuple[str, str]:
    """Which data set a row is about, and its path there. Raises Unmatched if that is none or not one."""
    if "" in overlays:
        return "", correction.path
    if correction.path:
        name, _, path = correction.path.partition("/")
        if name not in overlays:
            having = [known for known, overlay in overlays.items() if correction.path in overlay.images]
            if len(having) == 1:
                return having[0], correction.path
            begins = ", ".join(f"{known}/…" for known in overlays)
            raise Unmatched(f"no image or person has this path; paths begin with the name of a data set: {begins}")
        return name, path
    having = [name for name, overlay in overlays.items() if correction.id in overlay.ids]
    if len(having) > 1:
        raise Unmatched(f"persons of the data sets {' and '.join(having)} have this id; name one by its path")
    return (having or [name for name, overlay in overlays.items() if overlay.ids] or list(overlays))[0], ""
