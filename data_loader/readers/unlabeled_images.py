"""Images without labels, beside a data set that has some."""

from __future__ import annotations

import pandas as pd

from data_loader.label_frame import LabelFrame
from data_loader.readers.image_folder import EXTENSIONS, images_below
from data_loader.readers.table import existing_root
from utils.errors import UserError


def UnlabeledImages(root: str) -> LabelFrame:
    """All images in `root` and the folders below it (.jpg, .png, .webp, …), such as those that a competition evaluates.

    They have no attributes and each is its own group. Raises UserError if there are none.
    """
    folder = existing_root(root)
    paths = images_below(folder)
    if not paths:
        raise UserError(f"dataset.args.root: no image in '{folder}' with an ending among {', '.join(EXTENSIONS)}")
    rows = pd.DataFrame({"path": paths, "group": paths})
    return LabelFrame(rows, {}, folder, (f"UnlabeledImages {folder}: {len(rows):,} images",))
