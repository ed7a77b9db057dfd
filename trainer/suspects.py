"""`prepare.py suspects`: labels that a run's predictions contradict, as a corrections file to fill in and a page."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from data_loader.joint import PARTS
from data_loader.label_frame import LabelFrame
from data_loader.prepare_labels import read_frames
from report.page.gallery import Thumb, thumb
from report.page.suspects_page import Card, SuspectsPage, render_suspects_page
from report.suspects import Suspect, apart, by_group, find_suspects, read_predictions
from utils.config import Config
from utils.errors import UserError
from utils.files import atomic_write
from utils.joint import JOINT

OF_PERSONS = ("gender", "age")  # what MaskFaces corrects for all photos of a person at once
PICTURES = 3


def list_suspects(config: Config, predictions: Path, out: Path, most: int) -> str:
    """Write OUT/suspects.csv and OUT/index.html, the `most` suspect labels first; returns a line about them.

    Raises UserError if the predictions are none, or about other images than the config's.
    """
    data = _Data(config)
    paths, heads = read_predictions(predictions)
    unknown = [path for path in paths if path not in data.places]
    if unknown:
        raise UserError(
            f"{predictions}: {len(unknown):,} of {len(paths):,} images are not in the data of the config "
            f"(such as {unknown[0]})"
        )
    groups = [data.group(path) for path in paths]
    suspects: list[Suspect] = []
    labels = 0
    for whole in heads:
        for head in apart(whole, PARTS[-whole.classes[0].count("/") - 1 :]):
            rows = by_group(head, groups)
            labels += int((rows[0].labels >= 0).sum())
            suspects += find_suspects(*rows)
    suspects.sort(key=lambda found: found.p_label - found.p_predicted)
    found = len(suspects)
    table: list[dict[str, Any]] = []
    fields: dict[str, list[Card]] = {}
    for suspect in suspects[:most]:
        of_rows, number = [paths.iloc[row] for row in suspect.rows], len(table) + 1
        for named in data.named(suspect, of_rows):
            table.append({"path": named, **data.correction(suspect, of_rows[0]), "images": len(of_rows)})
        card = Card(
            number, table[-1]["path"], suspect.label, suspect.predicted, suspect.p_label, suspect.p_predicted,
            [data.picture(path) for path in of_rows[:PICTURES]],
        )  # fmt: skip
        fields.setdefault(suspect.field, []).append(card)
    out.mkdir(parents=True, exist_ok=True)
    columns = ["path", "field", "from", "to", "predicted", "p_label", "p_predicted", "images"]
    written = pd.DataFrame(table, columns=columns).to_csv(index=False, lineterminator="\n", float_format="%.4f")
    atomic_write(out / "suspects.csv", written)
    page = SuspectsPage(f"{config.name}: suspect labels", f"{predictions}: {found:,} of {labels:,} labels", fields)
    atomic_write(out / "index.html", render_suspects_page(page))
    shown = f", the first {most:,} of them" if found > most else ""
    return f"{out / 'suspects.csv'}, {out / 'index.html'}: {found:,} of {labels:,} labels are suspect{shown}"


class _Data:
    """What the readers say of an image, by the path that a run knows it by."""

    def __init__(self, config: Config):
        self.frames = read_frames(config)
        self.places: dict[str, tuple[str, int]] = {}
        for name, frame in self.frames.items():
            start = f"{name}/" if name else ""
            self.places.update({f"{start}{path}": (name, row) for row, path in enumerate(frame.rows["path"])})
        self.own_names: dict[str, dict[str, str]] = {}
        self.has_persons = set[str]()
        for (_, part), name in zip(config.data_sets, self.frames):
            called = part.attributes if isinstance(part.attributes, dict) else {}
            self.own_names[name] = {new: old for old, new in called.items()}
            if part.type == "MaskFaces":
                self.has_persons.add(name)

    def _of(self, path: str) -> tuple[LabelFrame, int]:
        name, row = self.places[path]
        return self.frames[name], row

    def group(self, path: str) -> str:
        frame, row = self._of(path)
        return f"{self.places[path][0]}/{frame.rows['group'].iloc[row]}"

    def named(self, suspect: Suspect, paths: list[str]) -> list[str]:
        """What the corrections file calls the images of a suspect: a person's folder, where there is one, or each."""
        folders = {str(PurePosixPath(path).parent) for path in paths}
        of_person = self.places[paths[0]][0] in self.has_persons and suspect.field in OF_PERSONS
        return sorted(folders) if of_person and len(folders) == 1 else paths

    def correction(self, suspect: Suspect, path: str) -> dict[str, Any]:
        """The cells of a row but the path; `from` is the reader's own label, before classes were merged."""
        frame, row = self._of(path)
        field = self.own_names[self.places[path][0]].get(suspect.field, suspect.field)
        own: Any = ""
        if field in frame.classes:
            own = frame.classes[field][frame.rows[field].iloc[row]]
        elif field in frame.rows and JOINT in frame.classes:
            own = frame.rows[field].iloc[row]
        return {
            "field": field, "from": own, "to": "", "predicted": suspect.predicted,
            "p_label": suspect.p_label, "p_predicted": suspect.p_predicted,
        }  # fmt: skip

    def picture(self, path: str) -> Thumb:
        frame, row = self._of(path)
        return thumb(path, frame.file(str(frame.rows["path"].iloc[row])))
