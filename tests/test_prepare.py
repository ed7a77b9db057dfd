"""prepare.py statistics, males and explore: their numbers, and how other parts read what they write."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import timm
import torch

from data_loader.decode import read_image
from data_loader.image_reader import ImageReader
from data_loader.readers import CelebAHair, LabelCSV
from data_loader.statistics import pixel_statistics
from model.resnet18_file import load_resnet18
from tests.test_mask_faces import competition
from tests.test_training import PROJECT, write_config
from trainer.build import build_model
from trainer.explore import explore
from trainer.males import find_males, with_hand_labels, write_males
from utils.checkpoint import save_checkpoint
from utils.config import load_config
from utils.errors import UserError


def save_images(folder: Path, count: int, seed: int = 0) -> np.ndarray:
    """Lossless random pictures of different brightness: uint8 [count, 12, 10, 3] RGB."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    images = np.stack([rng.integers(0, 30 + 20 * i, (12, 10, 3)) for i in range(count)]).astype(np.uint8)
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    return images


def test_statistics_are_those_of_all_pixels(tmp_path: Path):
    images = save_images(tmp_path / "images", 8)
    files = sorted((tmp_path / "images").glob("*.png"))
    found = pixel_statistics(files, ImageReader(None), tmp_path / "cache", workers=3)
    pixels = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, pixels.std(axis=0), rtol=1e-12)
    assert found.std[0] > (images / 255).std(axis=(1, 2)).mean() * 1.05 and found.pixels == 8 * 120

    calls: list[int] = []
    again = pixel_statistics(
        files[::-1], ImageReader(None), tmp_path / "cache", progress=lambda done, total: calls.append(done)
    )
    assert again == found and not calls
    cv2.imwrite(str(files[0]), np.full((12, 10, 3), 255, np.uint8))
    changed = pixel_statistics(files, ImageReader(None), tmp_path / "cache")
    assert changed.mean[0] > found.mean[0]
    shrunk = pixel_statistics(files, ImageReader((6, 5)), tmp_path / "cache")
    assert shrunk.pixels == 8 * 30 and shrunk.std[0] < changed.std[0]
    for bad in (files[2], files[6]):
        bad.write_bytes(b"no image")
    with pytest.raises(UserError, match=rf"{files[2].name}: cannot be decoded.*\n.*{files[6].name}: cannot be decoded"):
        pixel_statistics(files, ImageReader(None), tmp_path / "cache")


def test_the_line_of_statistics_is_a_valid_option_about_training_images(tmp_path: Path, tiny_faces: Path, in_process):
    config = write_config(tmp_path, tiny_faces)
    table = pd.read_csv(tiny_faces / "labels.csv")
    table["side"] = np.where(table.index < 48, "train", "valid")
    table.to_csv(tiny_faces / "labels.csv", index=False)
    said = in_process("prepare.py", "statistics", "-c", str(config), "-s", "dataset.args.split=side", "-s",
                      f"trainer.save_dir={tmp_path / 'saved'}")  # fmt: skip
    assert said.code == 0, said.err
    option = json.loads("{" + said.out.splitlines()[-1] + "}")["normalize"]
    used = [cv2.imread(str(tiny_faces / path))[..., ::-1] for path in table["path"][:48]]
    np.testing.assert_allclose(option["mean"], np.stack(used).reshape(-1, 3).mean(axis=0) / 255, atol=1e-6)
    np.testing.assert_allclose(option["std"], np.stack(used).reshape(-1, 3).std(axis=0) / 255, atol=1e-6)
    assert load_config(config, [f"views.normalize={json.dumps(option)}"]).views.normalize.std == option["std"]
    assert in_process("prepare.py", "statistics", "-c", str(config), "--workers", "0").code == 2


# --- males -----------------------------------------------------------------------------------------------------------

MALE = [1, 1, 0, 0, 1, 0]


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    root = tmp_path / "celeba"
    save_images(root / "CelebA-HQ-img", 6)
    for file in (root / "CelebA-HQ-img").glob("*.png"):
        cv2.imwrite(str(file.with_suffix(".jpg")), cv2.imread(str(file)))
        file.unlink()
    rows = [f"{i}.jpg  {1 if male else -1} -1" for i, male in enumerate(MALE)]
    (root / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(["6", "Male Bangs", *rows]) + "\n")
    return root


def gender_resnet(path: Path, prefix: str = "", outputs: int = 2, wrap: bool = False) -> torch.nn.Module:
    """A state dict with torchvision's keys and random values."""
    torch.manual_seed(3)
    model = timm.create_model("resnet18", pretrained=False, num_classes=outputs)
    tensors = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": tensors, "epoch": 3} if wrap else tensors, path)
    return model.eval()


def test_a_resnet18_of_torchvision_is_loaded_exactly_or_refused(tmp_path: Path):
    images = torch.randn(2, 3, 64, 64)
    for number, options in enumerate([{}, {"prefix": "module.", "wrap": True}]):
        path = tmp_path / f"{number}.pth"
        model = gender_resnet(path, **options)
        with torch.no_grad():
            assert torch.equal(load_resnet18(path)(images), model(images))
    tensors = torch.load(tmp_path / "0.pth", weights_only=True)
    del tensors["layer3.0.conv1.weight"]
    torch.save(tensors, tmp_path / "less.pth")
    with pytest.raises(UserError, match=r"missing: layer3\.0\.conv1\.weight"):
        load_resnet18(tmp_path / "less.pth")
    (tmp_path / "no.pth").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"--checkpoint .*no\.pth"):
        load_resnet18(tmp_path / "no.pth")


def test_males_by_classifier_with_the_disagreements(celeba: Path, tmp_path: Path, in_process):
    model = gender_resnet(tmp_path / "gender.pth")
    command = ["prepare.py", "males", "--root", str(celeba), "--out", str(tmp_path / "men.csv"), "-d", "cpu"]
    said = in_process(*command, "--checkpoint", str(tmp_path / "gender.pth"))
    assert said.code == 0, said.err
    table = pd.read_csv(tmp_path / "men.csv")
    assert list(table) == ["file", "male", "probability", "attribute"] and list(table["attribute"]) == MALE
    mean, std = (np.array(v) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for name, probability in zip(table["file"], table["probability"]):
        image = cv2.imread(str(celeba / "CelebA-HQ-img" / name))[..., ::-1]
        pixels = (cv2.resize(image, (224, 224), interpolation=cv2.INTER_LINEAR) / 255 - mean) / std
        with torch.no_grad():
            logits = model(torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float())
        assert probability == pytest.approx(logits.softmax(1)[0, 1].item(), abs=2e-3)  # classes: female, male
    differ = pd.read_csv(tmp_path / "men_disagreements.csv")
    assert set(differ["file"]) == set(table["file"][table["male"] != table["attribute"]]) and len(differ)
    gap = (differ["probability"] - differ["attribute"]).abs()
    assert gap.is_monotonic_decreasing

    swapped = in_process(*command, "--checkpoint", str(tmp_path / "gender.pth"), "--classes", "male", "female")
    assert swapped.code == 0
    np.testing.assert_allclose(pd.read_csv(tmp_path / "men.csv")["probability"], 1 - table["probability"], atol=2e-4)
    for wrong, message in ((["--classes", "a", "b"], "--classes a b"), (["--threshold", "1.5"], "--threshold 1.5")):
        said = in_process(*command, "--checkpoint", str(tmp_path / "gender.pth"), *wrong)
        assert said.code == 2 and message in said.err
    assert "did you mean 'Male'" in in_process(*command, "--attribute", "Mael").err
    assert "name it with --checkpoint" in in_process(*command, "--classes", "a", "b").err


def test_a_checkpoint_of_a_run_decides_by_all_its_male_classes(celeba: Path, tmp_path: Path, tiny_faces, in_process):
    """Of a joint label, and of its average over steps; --head names another head."""
    config = load_config(write_config(tmp_path, tiny_faces))
    classes = {"mask": ("wear", "normal"), "joint": ("wear/male/<30", "wear/female/<30", "normal/male/<30")}
    torch.manual_seed(1)
    model = build_model(config, {head: len(names) for head, names in classes.items()}, load_weights=False).eval()
    content = {
        "config": json.dumps(config.to_dict()),
        "classes": classes,
        "model": {},
        "ema": {"model": model.state_dict()},
        "normalization": [[0.5] * 3, [0.25] * 3],
        "data": {},
        "run": "tiny/1",
        "step": 1,
    }
    save_checkpoint(tmp_path / "run" / "checkpoints" / "last.pth", content)
    command = ["prepare.py", "males", "--root", str(celeba), "--out", str(tmp_path / "men.csv"), "-d", "cpu"]
    said = in_process(*command, "--checkpoint", str(tmp_path / "run"))
    assert said.code == 0, said.err
    table = pd.read_csv(tmp_path / "men.csv")
    images = np.stack([read_image(celeba / "CelebA-HQ-img" / name, (32, 32)) for name in table["file"]])
    with torch.no_grad():
        logits = model((torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25)["joint"]
    expected = logits.softmax(1)[:, [0, 2]].sum(1).numpy()
    np.testing.assert_allclose(table["probability"], expected, atol=2e-3)
    for head, message in (("mask", "no class is called 'male'"), ("gender", "has no head 'gender'")):
        refused = in_process(*command, "--checkpoint", str(tmp_path / "run"), "--head", head)
        assert refused.code == 2 and message in refused.err


def test_readers_use_the_table(celeba: Path, tmp_path: Path):
    males = find_males(celeba, "Male", None)
    (celeba / "label_frame.csv").write_text("file,forehead,note\n0,1,x\n4.jpg,2,\n2.jpg,1,y\n")
    table = with_hand_labels(males.table, celeba, "label_frame.csv")
    assert "3 of 6" in write_males(celeba / "men.csv", males, table)[0]
    frame = CelebAHair(str(celeba), label_frame="men.csv")
    kept = frame.rows[frame.rows["male"] == 1]
    assert list(kept["path"]) == [f"CelebA-HQ-img/{i}.jpg" for i in (0, 1, 4)]
    assert list(kept["forehead"]) == [0, -1, 1] and list(frame.rows["note"].dropna()) == ["x", "y"]
    write_males(celeba / "plain.csv", males, males.table)
    plain = LabelCSV(str(celeba / "CelebA-HQ-img"), str(celeba / "plain.csv"), ["male"], path="file")
    assert plain.counts("male") == {"0": 3, "1": 3}
    with pytest.raises(UserError, match="name a gender classifier"):
        find_males(celeba / "CelebA-HQ-img", "Male", None)


# --- explore ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def spoiled(tiny_faces: Path) -> Path:
    """Traps: a torn image, a transparent one, identical files across the split and with different labels, strays."""
    images = tiny_faces / "images"
    cv2.imwrite(str(images / "torn.jpg"), np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    (images / "torn.jpg").write_bytes((images / "torn.jpg").read_bytes()[:1500])
    cv2.imwrite(str(images / "clear.png"), np.full((16, 24, 4), 200, np.uint8))
    (images / "copy.png").write_bytes((images / "001.png").read_bytes())
    (images / "twin.png").write_bytes((images / "000.png").read_bytes())
    (images / "stray.png").write_bytes((images / "002.png").read_bytes())
    (images / "._000.png").write_bytes(b"\0\5\26\7")
    table = pd.read_csv(tiny_faces / "labels.csv")
    new = [("torn.jpg", "t", "red"), ("clear.png", "<c>", "red"), ("copy.png", "d", "red"), ("twin.png", "g0", "red")]
    added = pd.DataFrame([(f"images/{name}", *cells) for name, *cells in new], columns=table.columns)
    table = pd.concat([table, added])
    table["side"] = np.where(table["group"].isin(["d", *(f"g{i}" for i in range(40, 48))]), "valid", "train")
    table["years"] = np.where(table["hue"] == "red", 31, 64)
    table.to_csv(tiny_faces / "labels.csv", index=False)
    return tiny_faces


def test_explore_finds_what_is_wrong(spoiled: Path, tmp_path: Path, in_process):
    config = write_config(tmp_path, spoiled, labels={})
    command = ["prepare.py", "explore", "-c", str(config), "-s", "dataset.args.split=side"]
    said = in_process(*command, "--out", str(tmp_path / "look"))
    assert said.code == 0, said.err
    check = json.loads((tmp_path / "look" / "explore.json").read_text())
    assert check["attributes"]["hue"]["classes"] == {
        "blue": {"images": 24, "groups": 24, "train": 20, "valid": 4, "test": 0},
        "red": {"images": 76, "groups": 51, "train": 63, "valid": 13, "test": 0},
    }
    files, copies = check["files"], check["duplicates"]
    assert list(files["unreadable"]) == ["images/torn.jpg"] and files["modes"] == {"RGB": 98, "RGBA": 1}
    assert files["sizes"][1] == {"width": 24, "height": 16, "images": 1} and files["smallest_side"] == 16
    assert (files["apple_double"], files["unused_such_as"]) == (1, ["images/stray.png"])
    assert [copies[key] for key in ("sets", "different_groups", "different_sides", "different_labels")] == [2, 1, 1, 1]
    assert copies["such_as"]["labels"] == [["images/000.png", "images/twin.png"]]
    assert check["split"]["groups_on_two_sides"] == 0 and check["split"]["sides"]["valid"]["images"] == 17
    assert check["ages"]["series"] == {"all": [51, 0, 0, 0, 0, 0, 24]} and check["ages"]["first"] == 30
    problems = "\n".join(check["problems"])
    for text in ("cannot be decoded: 1", "two sides of the split, so", "different labels: 1", "1 RGBA", "32 x 32"):
        assert text in problems
    assert said.out.count("problem: ") == len(check["problems"])
    page = (tmp_path / "look" / "index.html").read_text()
    assert page.count("<figure") == 24 and "images/000.png = images/twin.png" in page

    # A class that cannot be split is a problem on the page; what cannot be read at all is an error.
    few = """labels.filters=["hue == 'red' or group == 'g0'"]"""
    said = in_process(*command[:-2], "-s", few, "--out", str(tmp_path / "refused"))
    assert said.code == 0 and "problem: training would not start" in said.out
    assert json.loads((tmp_path / "refused" / "explore.json").read_text())["split"] is None
    said = in_process(*command, "-s", "dataset.args.frame=no.csv", "--out", str(tmp_path / "none"))
    assert said.code == 2 and not (tmp_path / "none").exists()


def test_explore_draws_the_views_that_the_config_trains_with(tmp_path: Path, tiny_faces: Path, in_process):
    views = {"size": [32, 24], "weak": "none", "strong": [{"type": "HorizontalFlip", "args": {"p": 1.0}}]}
    config = write_config(tmp_path, tiny_faces, views=views)
    said = in_process("prepare.py", "explore", "-c", str(config), "--out", str(tmp_path / "look"))
    assert said.code == 0, said.err
    page = (tmp_path / "look" / "index.html").read_text()
    drawn = {}
    for name in ("eval", "train", "weak", "strong"):
        data = re.findall(rf'src="data:image/jpeg;base64,([^"]+)" alt="views\.{name}, image', page)
        drawn[name] = [cv2.imdecode(np.frombuffer(base64.b64decode(d), np.uint8), cv2.IMREAD_COLOR) for d in data]
    assert {name: len(images) for name, images in drawn.items()} == {"eval": 2, "train": 12, "weak": 2, "strong": 2}
    for plain, weak, strong in zip(drawn["eval"], drawn["weak"], drawn["strong"]):
        assert plain.shape == (32, 24, 3) and np.array_equal(plain, weak)
        assert np.abs(plain[:, ::-1].astype(float) - strong).mean() < 12 < np.abs(plain.astype(float) - strong).mean()
    supervised = ("-s", "trainer.type=SupervisedTrainer", "-s", "trainer.args={}")
    said = in_process("prepare.py", "explore", "-c", str(config), *supervised, "--out", str(tmp_path / "other"))
    page = (tmp_path / "other" / "index.html").read_text()
    assert said.code == 0 and "views.train" in page and "views.strong" not in page
    mirrored = 'views.train_of={"hue": {"blue": [{"type": "HorizontalFlip", "args": {"p": 1.0}}]}}'
    said = in_process(
        "prepare.py", "explore", "-c", str(config), *supervised, "-s", "views.train=none", "-s", mirrored, "--out",
        str(tmp_path / "other"),
    )  # fmt: skip
    assert said.code == 0, said.err
    page = (tmp_path / "other" / "index.html").read_text()
    for name in ("eval", "train"):
        data = re.findall(rf'src="data:image/jpeg;base64,([^"]+)" alt="views\.{name}, image', page)
        drawn[name] = [cv2.imdecode(np.frombuffer(base64.b64decode(d), np.uint8), cv2.IMREAD_COLOR) for d in data]
    alike = [np.array_equal(*pair) for pair in zip(drawn["eval"], drawn["train"], strict=True)]
    assert sorted(alike) == [False, True]
    crop = 'views.train=[{"type": "RandomCrop", "args": {"height": 99, "width": 99}}]'
    said = in_process("prepare.py", "explore", "-c", str(config), "-s", crop, "--out", str(tmp_path / "other"))
    assert said.code == 0 and "problem: training would not start: " in said.out and "views.train[0]" in said.out
    assert 'id="views"' not in (tmp_path / "other" / "index.html").read_text()


def test_explore_shows_a_joint_label_in_its_parts(tmp_path: Path):
    root = competition(tmp_path / "train")
    config = load_config(PROJECT / "configs" / "mask_joint.json", [f"dataset.args.root={root}"])
    check = explore(config, tmp_path / "look")
    assert {name: len(found["classes"]) for name, found in check["attributes"].items()} == {
        "mask": 3,
        "gender": 2,
        "age": 3,
    }
    assert len(check["joint"]["classes"]) == 18 and sum(check["joint"]["classes"].values()) == 6 * 7
    assert check["joint"]["classes"]["wear/female/<30"] == 10 and check["joint"]["classes"]["normal/female/>=60"] == 0
    table = next(table for table in check["cross"] if (table["rows"], table["columns"]) == ("gender", "age"))
    assert table["counts"] == [[7, 7, 7], [14, 7, 0]]
    assert check["groups"]["images_per_group"] == {"7": 6} and "state" in check["columns"]
    assert check["ages"]["series"]["female"] == [1, 1, 0, 0, 0, 0, 1, 0, 0, 0] and check["ages"]["first"] == 15
    assert check["files"]["apple_double"] == 6 * 7 + 2
