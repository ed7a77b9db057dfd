"""Models in a program's own hands: the page about it runs, and pictures in memory get the answers that files get."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.test_docs import blocks
from tests.test_training import PROJECT, write_config
from trainer.predictor import FacePredictor
from trainer.session import train
from utils.config import Config, read_run_config
from utils.errors import UserError


def test_the_page_about_python_runs_from_the_data_to_the_answers(tmp_path, tiny_faces, monkeypatch):
    config = write_config(tmp_path, tiny_faces, views={"size": 24, "crop": [30, 28]})
    (tmp_path / "photos").mkdir()
    for name in "ab":
        photo = cv2.imread(str(tiny_faces / "images" / "004.png"))
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.jpg"), photo)
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    page = blocks(PROJECT / "docs" / "python.md", "python")
    assert len(page) == 5
    for block in page:
        exec(block.replace("configs/demo/mask_multihead.json", str(config)), found)
    assert found["image"].shape == (24, 24, 3) and len({drawn.tobytes() for drawn in found["drawn"]}) > 1
    assert found["run_dir"] == tmp_path / "saved" / "tiny" / "notebook" and len(found["epochs"]) == 2
    answers, also = found["answers"], found["also"]
    assert list(answers["path"]) == ["photos/a.jpg", "photos/b.jpg"]
    np.testing.assert_allclose(also["hue/p/red"], answers["hue/p/red"][:1], atol=1e-6)


def load_config_of(face_models: dict[str, Path]) -> Config:
    return read_run_config(face_models["mask"].parents[1])


def test_pictures_in_memory_get_the_answers_of_their_files_from_models_that_vote(face_models):
    models = [face_models["mask"], face_models["mask2"], face_models["gender"]]
    predictor = FacePredictor(*models, weights=[2, 1, 1], tta=["hflip"])
    assert predictor.classes.keys() == {"mask", "gender"}
    files = sorted(face_models["faces"].rglob("*.png"))[:7]
    images = [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in files]
    of_files, of_arrays = predictor.files(files), predictor.arrays(images)
    pd.testing.assert_frame_equal(of_files.drop(columns="path"), of_arrays, atol=1e-6)
    larger = cv2.resize(images[0], None, fx=3, fy=2, interpolation=cv2.INTER_NEAREST)
    both = predictor.arrays([larger, images[1]])
    pd.testing.assert_frame_equal(both[1:], of_arrays[1:2], atol=1e-6)

    pd.testing.assert_frame_equal(predictor.arrays([Image.fromarray(image) for image in images]), of_arrays)
    for wrong in ([], images[0]):
        with pytest.raises(ValueError, match=r"at least one image|image 0: expected"):
            predictor.arrays(wrong)
    for nothing in ([], str(files[0])):
        with pytest.raises(ValueError, match="expected a list of at least one file"):
            predictor.files(nothing)
    for wrong in (images[0][..., 0], images[0].astype(np.float32), images[0][:0]):
        with pytest.raises(ValueError, match=r"image 1: expected uint8 \[h, w, 3\]"):
            predictor.arrays([images[0], wrong])
    with pytest.raises(UserError, match=r"no\.png: no such file"):
        predictor.files([files[0], Path("no.png")])
    with pytest.raises(UserError, match="no such checkpoint"):
        FacePredictor("no.pth")
    with pytest.raises(UserError, match="name at least one checkpoint"):
        FacePredictor()
    with pytest.raises(UserError, match=r"no\.json"):
        FacePredictor(face_models["mask"], calibration="no.json")
    bad = 'views.preprocess=[{"type": "ToGray", "args": {"p": 1, "num_output_channels": 1}}]'
    with pytest.raises(UserError, match=r"views.preprocess\[0\]: ToGray gives uint8"):
        FacePredictor(face_models["mask"], overrides=[bad])
    with pytest.raises(ValueError, match="give a config's to load_config"):
        train(load_config_of(face_models), overrides=["seed=9"])
    with pytest.raises(UserError, match=r"--run-id bad/../x: expected a folder name"):
        train(load_config_of(face_models), run_id="bad/../x")
