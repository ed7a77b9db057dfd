"""The config: every mistake gives one clear line that names the file or -s, the key and the nearest choice."""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler

from utils.config import (
    Config,
    Kind,
    Nested,
    apply_overrides,
    config_from_dict,
    config_problems,
    differences,
    load_catalogue,
    load_config,
    says_where,
    schema_text,
)
from utils.config.json_schema import fits
from utils.config.signature import describe
from utils.errors import ConfigError, UserError

ROOT = Path(__file__).resolve().parents[1]
HERE = sys.modules[__name__]

EXAMPLE: dict[str, Any] = json.loads("""{
  "$schema": "schema.json",
  "extends": null,
  "about": "DESIGN.md's example",
  "name": "fixmatch_hair",
  "seed": 42,
  "dataset": {"type": "Faces", "args": {"root": "data/faces", "gender": "male"}, "attributes": null},
  "labels": {"corrections": null, "merge": {"forehead": {"shown": ["0", "1"], "covered": ["2"]}}, "filters": [],
             "duplicates": null, "train": null, "labeled": null},
  "split": {"valid": 0.2, "test": 0.0, "stratify": ["forehead"], "seed": 0, "folds": null, "fold": null, "from": null},
  "views": {"size": 224, "crop": null, "preprocess": [], "train": "light", "train_of": null, "weak": "light",
            "eval": [], "normalize": "imagenet",
            "strong": ["HorizontalFlip", {"type": "OneOf", "args": {"transforms": [{"type": "Blur"}], "p": 1}}]},
  "data_loader": {"batch_size": 8, "unlabeled_ratio": 7, "num_workers": "auto", "sampler": "random",
                  "one_per_group": null, "cache": "auto", "feature_views": null},
  "arch": {"type": "Net", "args": {"backbone": "resnet50", "dropout": 0.2}},
  "loss": {"type": "toy_loss", "args": {"label_smoothing": 0.0}},
  "metrics": ["accuracy", "macro_f1"],
  "optimizer": {"type": "AdamW", "args": {"lr": 0.001, "weight_decay": 0.01}, "backbone_lr": 0.0002},
  "lr_scheduler": {"type": "CosineAnnealingLR", "args": {"T_max": 100}, "interval": "step"},
  "trainer": {"type": "SemiTrainer", "args": {"threshold": {"type": "fixed", "args": {"value": 0.95}}, "lambda_u": 1,
              "align": {"type": "prior", "args": {"momentum": 0.9}}},
              "epochs": 100, "steps_per_epoch": 256, "monitor": "max valid/macro_f1", "early_stop": 10, "ema": 0.999,
              "precision": "auto", "speed": null, "validate_every": 1, "accumulate": 1, "clip_grad": null,
              "evaluation_prior": 0.0, "save_dir": "saved", "keep_last": 2},
  "logger": {"console": true, "tensorboard": true,
             "wandb": {"mode": "disabled", "project": "p", "entity": null, "tags": []}}
}""")
MINIMAL = {
    "name": "minimal",
    "dataset": {"type": "Faces", "args": {"root": "data"}},
    "arch": {"type": "Net"},
    "optimizer": {"type": "SGD", "args": {"lr": 0.1}},
    "trainer": {"type": "PlainTrainer", "epochs": 3},
}


# Stand-ins for the project's own components --------------------------------------------------------------------------


class Reader:
    pass


class Faces(Reader):
    """Photos.

    root: folder of the photos. Other sentences follow.
    """

    def __init__(self, root: str, gender: Literal["male", "female"] | None = None):
        if gender == "female":
            raise AssertionError


class Net:
    def __init__(self, classes: dict[str, tuple[str, ...]], backbone: str = "resnet18", dropout: float = 0.0):
        self.classes, self.backbone = classes, backbone


def toy_loss(logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0, weight: Tensor | list[float] = []):  # noqa: B006
    return logits.sum() * label_smoothing


def accuracy(confusion: Tensor) -> float:
    return 1.0


def macro_f1(confusion: Tensor) -> float:
    return 1.0


class Threshold:
    pass


class fixed(Threshold):
    def __init__(self, *, value: float = 0.95, per: Annotated[dict | str | None, Nested("align")] = None):
        self.value = value


class Align:
    pass


class prior(Align):
    def __init__(self, class_counts: Tensor, *, momentum: float):
        self.counts, self.momentum = class_counts, momentum


class PlainTrainer:
    def __init__(self, parts: dict):
        self.parts = parts


class SemiTrainer(PlainTrainer):
    def __init__(
        self,
        parts: dict,
        *,
        threshold: Annotated[dict[str, Any] | str, Nested("threshold", per_head=True)] = "fixed",
        align: Annotated[dict[str, Any] | str | None, Nested("align", per_head=True)] = None,
        lambda_u: float = 1.0,
        size: tuple[int, int] | int = 8,
    ):
        super().__init__(parts)
        self.threshold, self.size = threshold, size


class OwnTrainer(SemiTrainer):
    """lambda_own: factor of the third loss."""

    def __init__(self, parts: dict, *, lambda_own: float = 1.0, lambda_u: float = 2.0, **others: Any):
        super().__init__(parts, lambda_u=lambda_u, **others)


class LooseTrainer(PlainTrainer):
    def __init__(self, parts: dict, **options: Any):
        super().__init__(parts)
        self.options = options


def light(height: int, width: int) -> list[dict[str, Any]]:
    return []


def halving(optimizer: torch.optim.Optimizer, total_steps: int, *, every: int = 2) -> lr_scheduler.StepLR:
    return lr_scheduler.StepLR(optimizer, every * total_steps, 0.5)


TRAINERS = frozenset({"PlainTrainer", "SemiTrainer", "OwnTrainer", "LooseTrainer"})
KINDS = {
    kind.name: kind
    for kind in (
        Kind("dataset", (HERE,), base=Reader),
        Kind("arch", (HERE,), only=frozenset({"Net"}), provided=frozenset({"classes"})),
        Kind("loss", (HERE,), keyword_only=True, only=frozenset({"toy_loss"})),
        Kind("metric", (HERE,), keyword_only=True, only=frozenset({"accuracy", "macro_f1"})),
        Kind("optimizer", (torch.optim,), base=torch.optim.Optimizer, provided=frozenset({"params"})),
        Kind(
            "lr_scheduler",
            (HERE, lr_scheduler),
            base=lr_scheduler.LRScheduler,
            provided=frozenset({"optimizer", "total_steps"}),
        ),
        Kind("transform", (A,), base=A.BasicTransform | A.BaseCompose),
        Kind("preset", (HERE,), only=frozenset({"light"}), provided=frozenset({"height", "width"})),
        Kind("trainer", (HERE,), only=TRAINERS, keyword_only=True),
        Kind("threshold", (HERE,), base=Threshold),
        Kind("align", (HERE,), base=Align, provided=frozenset({"class_counts"})),
    )
}


@pytest.fixture(scope="module")
def schema_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("generated") / "schema.json"
    path.write_text(schema_text(KINDS), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Current folder with an empty configs/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    return tmp_path


def write(tree: Any, name: str = "x.json") -> str:
    path = Path("configs", name)
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return str(path)


def changed(**changes: Any) -> dict[str, Any]:
    """EXAMPLE with `trainer__epochs=3`; a change to ... removes the key."""
    tree = copy.deepcopy(EXAMPLE)
    for name, value in changes.items():
        *outer, last = name.split("__")
        node = functools.reduce(lambda node, part: node[part], outer, tree)
        node.pop(last, None)
        if value is not ...:
            node[last] = value
    return tree


def problems(make: Any, *args: Any, **kwargs: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        make(*args, **kwargs)
    return caught.value.problems


# What is right -------------------------------------------------------------------------------------------------------


def test_example_is_valid_and_survives_a_round_trip(folder, schema_file):
    config = load_config(write(EXAMPLE), catalogue=schema_file)
    assert config_problems(config, KINDS) == []
    tree = config.to_dict()
    assert "$schema" not in tree
    assert tree == {name: value for name, value in EXAMPLE.items() if name != "$schema"}
    again = config_from_dict(json.loads(json.dumps(tree)), "checkpoint")
    assert again == config and differences(config, again) == []
    assert config.trainer.epochs == 100 and config.views.shape == (224, 224) and config.optimizer.backbone_lr == 2e-4


def test_defaults(folder):
    config = load_config(write(MINIMAL), catalogue=None)
    tree = config.to_dict()
    assert tree["extends"] is None and tree["lr_scheduler"] is None and tree["labels"]["labeled"] is None
    assert config.metrics == ["accuracy", "macro_f1"] and tree["loss"]["type"] == "cross_entropy"
    assert config.trainer.monitor == "max valid/macro_f1" and config.views.normalize == "auto"
    assert config_from_dict(tree, "x") == config
    with pytest.raises(Exception, match="frozen"):
        config.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("loss", "labeled", "size"),
    [
        ({"default": {"type": "toy_loss"}, "age": {"type": "toy_loss", "weight": 0.5}}, {"per_class": 50}, [96, 128]),
        ({"type": "toy_loss"}, {"count": 200, "seed": 3}, 96),
    ],
)
def test_alternative_forms(folder, loss, labeled, size):
    config = load_config(write(changed(loss=loss, labels__labeled=labeled, views__size=size)), catalogue=None)
    assert config_from_dict(config.to_dict(), "x") == config
    assert config.to_dict()["labels"]["labeled"] == {"seed": 0} | labeled


# What is wrong: the error table of the template we learn from, and more ----------------------------------------------

X = "configs/x.json: "
# A name, what is changed in EXAMPLE, and the lines that load_config says of it (without the file's name).
MISTAKES = """
# misspelt section
optimizer=REMOVED optimzer={"type":"AdamW"}
    optimizer: missing; expected an object {"type": NAME, "args": {…}}
    optimzer: unknown key; did you mean 'optimizer'?

# misspelt argument
optimizer.args={"lrr":0.1}
    optimizer.args.lrr: AdamW has no argument 'lrr'; did you mean 'lr'?

# misspelt keys of the trainer
trainer.epochs=REMOVED trainer.epcohs=3 trainer.early_stp=3 trainer.moniter="max x"
    trainer.epochs: missing; expected a whole number ≥ 1
    trainer.epcohs: unknown key; did you mean 'epochs'?
    trainer.early_stp: unknown key; did you mean 'early_stop'?
    trainer.moniter: unknown key; did you mean 'monitor'?

# string for a number
trainer.epochs="2" optimizer.args={"lr":"0.001"}
    trainer.epochs: expected a whole number ≥ 1, got "2"
    optimizer.args.lr: expected a number, got "0.001"

# other wrong types
seed=true data_loader.batch_size=2.0 logger.console=1 metrics="accuracy" logger.wandb=null
    seed: expected a whole number ≥ 0, got true
    data_loader.batch_size: expected a whole number ≥ 1, got 2.0
    metrics: expected a non-empty list of names or {HEAD or "default": [names]}, got "accuracy"
    logger.console: expected true or false, got 1
    logger.wandb: expected an object, got null

# out of range
trainer.epochs=-3 split.valid=0.6 split.test=0.5 trainer.ema=1.0
    split.test: valid + test is 1.1, which leaves no training images
    trainer.epochs: expected a whole number ≥ 1, got -3
    trainer.ema: expected a number ≥ 0 and < 1 or null, got 1.0

# folds
split.folds=1
    split.folds: expected a whole number ≥ 2 or null, got 1

# a fold without folds
split.fold=2
    split.fold: needs split.folds, the number of folds

# folds without the fold
split.folds=5
    split.fold: folds is 5, but fold does not say which one is for validation; train.py --folds 5 trains them all

# a fold that is not there
split.folds=5 split.fold=6
    split.fold: expected 1 … 5 (split.folds), got 6

# two splits at once
split.folds=5 split.fold=5 split.from="saved/x/1/split.csv"
    split.from: cannot be given together with split.folds: the file says who is for validation

# mode that is none
trainer.monitor="maximum valid/accuracy"
    trainer.monitor: expected "max NAME" or "min NAME", for example "max valid/macro_f1", got "maximum valid/accuracy"

# monitor that is not measured
trainer.monitor="max val_acuracy"
    trainer.monitor: nothing is measured as 'val_acuracy'; did you mean 'valid/accuracy'?

# default monitor that is not measured
metrics=["accuracy"] trainer.monitor=REMOVED
    trainer.monitor: nothing is measured as 'valid/macro_f1'; did you mean 'valid/accuracy'?

# key in the wrong place
ema=0.99 trainer.batch_size=3
    trainer.batch_size: unknown key; did you mean 'data_loader.batch_size'?
    ema: unknown key; did you mean 'trainer.ema'?

# missing sections
name=REMOVED dataset.type=REMOVED optimizer.args=REMOVED lr_scheduler=REMOVED logger=REMOVED
    name: missing; expected a folder name of letters, digits, '.', '_' and '-'
    dataset.type: missing; expected a name

# missing argument
lr_scheduler.args={"T_mx":3}
    lr_scheduler.args.T_mx: CosineAnnealingLR has no argument 'T_mx'; did you mean 'T_max'?
    lr_scheduler.args.T_max: missing; CosineAnnealingLR needs a whole number

# name that is no folder
name="../x"
    name: expected a folder name of letters, digits, '.', '_' and '-', got "../x"

# views
views.size="big" views.strong=[{"type":"Blur","arg":{}},3,{"type":"Blur","args":{"P":1}}] views.normalize="x"
    views.size: expected a whole number ≥ 8 or a list [height, width] of them, got "big"
    views.strong[0].arg: unknown key; did you mean 'args'?
    views.strong[1]: expected a name or an object {"type": NAME, "args": {…}}, got 3
    views.normalize: expected "auto", "imagenet", "half" or an object {"mean": [3 numbers], "std": [3 numbers]}, got "x"
    views.strong[2].args.P: Blur has no argument 'P'; did you mean 'p'?

# nested transforms
views.train=[{"type":"OneOf","args":{"transforms":["Blur",{"type":"Blur","args":{"blr_limit":3}}],"p":"1"}}]
    views.train[0].args.transforms[1].args.blr_limit: Blur has no argument 'blr_limit'; did you mean 'blur_limit'?
    views.train[0].args.p: expected a number, got "1"

# nested components
trainer.args={"threshold":{"type":"fixed","args":{"valu":1,"per":"prior"}},"align":{"arg":{}}}
    trainer.args.threshold.args.valu: fixed has no argument 'valu'; did you mean 'value'?
    trainer.args.threshold.args.per.args.momentum: missing; prior needs a number
    trainer.args.align.arg: unknown key; did you mean 'args'?
    trainer.args.align.type: missing; expected the name of an align

# losses of heads
loss={"default":{"type":"toy_loss","wieght":2},"age":{"type":"toy_loss","args":{"weight":[1,"a"]}}}
    loss.default.wieght: unknown key; did you mean 'weight'?
    loss.age.args.weight: expected a list of numbers, got [1, "a"]

# loss without type
loss={"typ":"toy_loss","args":{}}
    loss.type: missing; expected a name
    loss.typ: unknown key; did you mean 'type'?

# labeled both ways
labels.labeled={"count":5,"per_class":3} labels.merge={"age":{"old":[]}}
    labels.merge.age.old: expected a non-empty list of strings, got []
    labels.labeled.per_class: cannot be given together with the other keys of this object
"""


def mistakes() -> dict[str, tuple[dict[str, Any], list[str]]]:
    """{name: (changed EXAMPLE, messages)}."""
    table = {}
    for paragraph in MISTAKES.strip().split("\n\n"):
        name, changes, *messages = paragraph.splitlines()
        pairs = [change.split("=", 1) for change in re.split(r" (?=[a-z_.]+=)", changes)]
        tree = changed(
            **{key.replace(".", "__"): ... if value == "REMOVED" else json.loads(value) for key, value in pairs}
        )
        table[name.removeprefix("# ")] = (tree, [X + message.strip() for message in messages])
    return table


@pytest.mark.parametrize("mistake", mistakes())
def test_mistakes_are_all_said_at_once_without_the_classes(folder, schema_file, mistake):
    tree, messages = mistakes()[mistake]
    assert sorted(problems(load_config, write(tree), catalogue=schema_file)) == sorted(messages)


def test_unknown_types_are_found_by_the_classes_and_by_the_catalogue(folder, schema_file):
    tree = changed(
        optimizer__type="Adan",
        metrics=["acuracy"],
        views__weak="ligth",
        views__strong=["light", "HorizontalFlp", "ligth"],
        trainer__args={"threshold": "fixd", "align": "none"},
        trainer__monitor="max valid/acuracy",
    )
    found = [
        X + "views.weak: no preset 'ligth'; did you mean 'light'?",
        X + "views.strong[1]: no preset or transform 'HorizontalFlp'; did you mean 'HorizontalFlip'?",
        X + "views.strong[2]: no preset or transform 'ligth'; did you mean 'light'?",
        X + "metrics[0]: no metric 'acuracy'; did you mean 'accuracy'?",
        X + "optimizer.type: no optimizer 'Adan'; did you mean 'Adam'?",
        X + "trainer.args.threshold: no threshold 'fixd'; did you mean 'fixed'?",
    ]
    assert config_problems(load_config(write(tree), catalogue=None), KINDS) == found
    assert sorted(problems(load_config, write(tree), catalogue=schema_file)) == sorted(found)
    # A name that our sources have may be a type that is younger than the catalogue.
    new = changed(optimizer__type="is_named_in_sources")
    [message] = config_problems(load_config(write(new), catalogue=schema_file), KINDS)
    assert message == X + "optimizer.type: no optimizer 'is_named_in_sources'"


def test_classes_and_catalogue_say_the_same(folder, schema_file):
    """The same arguments checked against signatures and against the generated file."""
    for tree, _ in mistakes().values():
        path = write(tree)
        try:
            config = load_config(path, catalogue=None)
        except ConfigError:
            continue
        assert config_problems(config, KINDS) == problems(load_config, path, catalogue=schema_file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n "name": "a",,\n}', "line 2, column 14: not JSON: Expecting property name enclosed in double quotes"),
        ('{"seed": NaN}', "line 1, column 10: not JSON: NaN is not a JSON number"),
        ('{"trainer": {"epochs": 1, "epochs": 2}}', "trainer.epochs: this key is given twice"),
        ("[1]", "expected an object {…}, got [1]"),
        ('{"extends": 3}', "extends: expected a file name or null, got 3"),
        ('{"extends": "bse.json"}', "extends: configs/bse.json: no such file; did you mean 'base.json'?"),
        ('{"extends": "x.json"}', "extends: goes round in a circle: configs/x.json -> configs/x.json"),
    ],
)
def test_files_that_cannot_be_read(folder, text, message):
    write({}, "base.json")
    assert problems(load_config, write(text)) == [X + message]


def test_files_that_are_not_there(folder):
    write({}, "fixmatch_hair.json")
    assert problems(load_config, "configs/fixmatch_har.json") == [
        "configs/fixmatch_har.json: no such file; did you mean 'fixmatch_hair.json'?"
    ]
    assert problems(load_config, "confgs/x.json") == ["confgs/x.json: no folder 'confgs'"]
    assert problems(load_config, "configs") == ["configs: is a folder; expected a JSON file"]


# Layers: extends, -s and where a value comes from --------------------------------------------------------------------


def test_extends_merges_objects_and_replaces_the_rest(folder):
    write(EXAMPLE, "base.json")
    Path("configs/demo").mkdir()
    write({"extends": "../base.json", "metrics": ["macro_f1"], "trainer": {"epochs": 7}}, "demo/mid.json")
    path = write(
        {
            "extends": "mid.json",
            "labels": {"merge": {"age": {"old": ["1"]}}},
            "optimizer": {"type": "SGD", "args": {"lr": 1}},
        },
        "demo/x.json",
    )
    tree = load_config(path, catalogue=None).to_dict()
    assert tree["extends"] is None and tree["name"] == "fixmatch_hair"
    assert tree["metrics"] == ["macro_f1"] and tree["trainer"] == EXAMPLE["trainer"] | {"epochs": 7}
    assert tree["labels"]["merge"].keys() == {"forehead", "age"}
    # Another type: AdamW's weight_decay does not stay among SGD's args, what stands beside them does.
    assert tree["optimizer"] == {"type": "SGD", "args": {"lr": 1}, "backbone_lr": 2e-4}


def test_another_form_replaces(folder):
    write(changed(labels__labeled={"per_class": 5}), "base.json")
    path = write(
        {"extends": "base.json", "loss": {"default": {"type": "toy_loss"}}, "labels": {"labeled": {"count": 9}}}
    )
    tree = load_config(path, catalogue=None).to_dict()
    assert tree["loss"] == {"default": {"type": "toy_loss", "args": {}, "weight": 1.0}}
    assert tree["labels"]["labeled"] == {"count": 9, "seed": 0}


def test_overrides(folder, schema_file):
    path = write(EXAMPLE)
    overrides = [
        "trainer.epochs=3",
        "optimizer.args.momentum=0.9",  # before the type that has it
        "optimizer.type=SGD",
        "name=other",
        "labels.labeled.count=200",
        'views.strong=["HorizontalFlip"]',
        "lr_scheduler=null",
        "trainer.epochs=4",
    ]
    config = load_config(path, overrides, catalogue=schema_file)
    assert config.trainer.epochs == 4 and config.name == "other"
    assert config.optimizer.type == "SGD" and config.optimizer.args == {"momentum": 0.9}
    assert config.to_dict()["labels"]["labeled"] == {"count": 200, "seed": 0}
    assert config.views.strong == ["HorizontalFlip"] and config.lr_scheduler is None


def test_every_line_names_who_brought_the_value(folder, schema_file):
    write(changed(split__valid="much"), "base.json")
    path = write({"extends": "base.json", "trainer": {"epochs": "9"}})
    overrides = ["trainer.epochz=3", "lr_scheduler.type=StepLR", "optimizr.x=1", "optimizer.args.lr=fast"]
    overrides += ["noequals", "seed.x=1", "views.strong.2=1", "trainer.args={", "extends=y.json"]
    assert problems(load_config, path, overrides, catalogue=schema_file) == [
        "-s noequals: expected KEY=VALUE, for example trainer.epochs=3",
        "-s seed.x=1: seed is 42, not an object",
        "-s views.strong.2=1: views.strong is a list without '2'; give the whole list or name an element by its "
        "number: 0 (HorizontalFlip), 1 (OneOf)",
        "-s trainer.args={: the value is not JSON: Expecting property name enclosed in double quotes at character 2",
        "-s extends=y.json: extends works in a config file only",
        'configs/base.json: split.valid: expected a number ≥ 0 and < 1, got "much"',
        'configs/x.json: trainer.epochs: expected a whole number ≥ 1, got "9"',
        "-s trainer.epochz=3: trainer.epochz: unknown key; did you mean 'epochs'?",
        "-s optimizr.x=1: optimizr: unknown key; did you mean 'optimizer'?",
        '-s optimizer.args.lr=fast: optimizer.args.lr: expected a number, got "fast"',
        "-s lr_scheduler.type=StepLR: lr_scheduler.args.step_size: missing; StepLR needs a whole number",
    ]


SEVERAL = [
    {"type": "Faces", "args": {"root": "a"}, "attributes": {"gender": "sex"}},
    {"type": "Faces", "args": {"root": "b"}, "name": "more"},
]


def test_several_data_sets_and_overrides_that_reach_into_the_list(folder, schema_file):
    path = write(changed(dataset=SEVERAL, labels__labeled={"more": {"count": 5}}))
    overrides = ["dataset.1.args.gender=male", "dataset.1.args.root=c", "views.strong.0=Blur"]
    config = load_config(path, overrides, catalogue=schema_file)
    assert config_problems(config, KINDS) == []
    assert [(place, part.title, part.args) for place, part in config.data_sets] == [
        ("dataset[0]", "Faces", {"root": "a"}),
        ("dataset[1]", "more", {"root": "c", "gender": "male"}),
    ]
    assert config.views.strong[0] == "Blur" and len(config.views.strong) == 2
    assert config.to_dict()["labels"]["labeled"] == {"more": {"count": 5, "seed": 0}}
    assert config.where("dataset[1].args.root") == "-s dataset.1.args.root=c: dataset[1].args.root"
    assert config.where("dataset[0].type") == "configs/x.json: dataset[0].type"
    before = config_from_dict(changed(dataset=SEVERAL), "old")
    assert differences(before, apply_overrides(before, ["dataset.0.args.root=z"], catalogue=schema_file)) == [
        'dataset[0].args.root: "a" -> "z"'
    ]
    one = load_config(path, ['dataset={"type": "Faces", "args": {"root": "z"}}'], catalogue=schema_file)
    assert one.data_sets[0][1].args == {"root": "z"}
    new_type = load_config(path, ["dataset.1.type=Faces", "labels.labeled.count=3"], catalogue=schema_file)
    assert new_type.labels.labeled.count == 3


def test_mistakes_in_several_data_sets(folder, schema_file):
    path = write(changed(dataset=SEVERAL))
    for override, message in (
        ("dataset.2.args.root=c", "dataset is a list without '2'; give the whole list or name an element by its "
         "number: 0 (Faces), 1 (more)"),
        ("dataset.args.root=c", "dataset is a list without 'args'; give the whole list or name an element by its "
         "number: 0 (Faces), 1 (more)"),
        ("dataset.1.args.rot=c", "dataset[1].args.rot: Faces has no argument 'rot'; did you mean 'root'?"),
        ("dataset.1.nam=c", "dataset[1].nam: unknown key; did you mean 'name'?"),
        ("dataset.1.name=a/b", "dataset[1].name: expected a folder name of letters, digits, '.', '_' and '-' or "
         'null, got "a/b"'),
        ("dataset.1.name=Faces", "dataset: 2 data sets are called 'Faces'; give each a name of its own"),
        ("dataset=[]", 'dataset: expected an object {"type": NAME, "args": {…}} or a list of them, each with a "name", '
         "got []"),
        ("dataset.1.attributes=[]", "dataset[1].attributes: expected a list of attributes, an object {ATTRIBUTE: name "
         "of its head} or null, got []"),
        ('labels.labeled={"more": {"cuont": 5}}', "labels.labeled.more.cuont: unknown key"),
    ):  # fmt: skip
        found = problems(load_config, path, [override], catalogue=schema_file)
        assert any(message in line for line in found), (override, found)
    unknown = problems(load_config, path, ["dataset.1.type=Fcaes"], catalogue=schema_file)
    assert "dataset[1].type: no dataset 'Fcaes'; did you mean 'Faces'?" in unknown[0]


def test_switches_per_head(folder, schema_file):
    switches = {"threshold": {"age": {"type": "fixed", "args": {"value": 0.9}}, "default": "fixed"},
                "align": {"age": None, "default": {"type": "prior", "args": {"momentum": 0.9}}}}  # fmt: skip
    path = write({"extends": "base.json", "trainer": {"args": switches}})
    write(EXAMPLE, "base.json")
    config = load_config(path, ["trainer.args.threshold.age.args.value=0.8"], catalogue=schema_file)
    assert config_problems(config, KINDS) == []
    assert config.trainer.args["threshold"]["age"] == {"type": "fixed", "args": {"value": 0.8}}
    assert config.trainer.args["align"] == switches["align"]
    assert fits(json.loads(Path(path).read_text()), json.loads(schema_file.read_text()))
    one = load_config(path, ["trainer.args.align=null", "trainer.args.threshold.default=fixd"], catalogue=None)
    assert config_problems(one, KINDS) == [
        "-s trainer.args.threshold.default=fixd: trainer.args.threshold.default: no threshold 'fixd'; "
        "did you mean 'fixed'?"
    ]
    for wrong, message in (
        ({"age": {"type": "fixed", "args": {"valu": 1}}}, "threshold.age.args.valu: fixed has no argument 'valu'"),
        ({"age": 0.9}, "threshold.age: expected an object or a string, got 0.9"),
        ({"age": None}, "threshold.age: expected an object or a string, got null"),
        ({}, "threshold.type: missing"),
    ):
        path = write(changed(trainer__args={"threshold": wrong}))
        live = config_problems(load_config(path, catalogue=None), KINDS)
        for found in (live, problems(load_config, path, catalogue=schema_file)):
            assert any(message in line for line in found), (wrong, found)


def test_overrides_of_a_checkpoints_config(folder, schema_file):
    saved = config_from_dict(load_config(write(EXAMPLE), catalogue=None).to_dict(), "saved/last.pth")
    write({"dataset": {"args": {"root": "elsewhere"}}}, "part.json")
    overrides = ["optimizer.args.lr=0.05", "lr_scheduler=null"]
    new = apply_overrides(saved, overrides, "configs/part.json", catalogue=schema_file)
    assert differences(saved, new) == [
        'dataset.args.root: "data/faces" -> "elsewhere"',
        "optimizer.args.lr: 0.001 -> 0.05",
        'lr_scheduler: {"type": "CosineAnnealingLR", "args": {"T_max": 100}, "interval": "step"} -> null',
    ]
    assert new.where("dataset.args.root") == "configs/part.json: dataset.args.root"
    assert new.where("optimizer.args.lr") == "-s optimizer.args.lr=0.05: optimizer.args.lr"
    assert new.where("arch") == "saved/last.pth: arch"
    assert problems(apply_overrides, saved, ["trainer.epochs=0"], catalogue=None) == [
        "-s trainer.epochs=0: trainer.epochs: expected a whole number ≥ 1, got 0"
    ]
    assert problems(config_from_dict, {**MINIMAL, "seed": "1"}, "old.pth") == [
        'old.pth: seed: expected a whole number ≥ 0, got "1"'
    ]


# Kinds ---------------------------------------------------------------------------------------------------------------


def test_kinds_of_libraries_name_their_own_components_only():
    assert {"AdamW", "SGD"} < set(KINDS["optimizer"].names())
    assert not {"Optimizer", "lr_scheduler", "swa_utils", "swap_in_optimizer_params_and_state"} & set(
        KINDS["optimizer"].names()
    )
    assert {"halving", "OneCycleLR"} < set(KINDS["lr_scheduler"].names())
    assert {"HorizontalFlip", "OneOf"} < set(KINDS["transform"].names())
    assert not {"BasicTransform", "BaseCompose", "cv2", "Literal"} & set(KINDS["transform"].names())
    assert KINDS["threshold"].names() == ["fixed"]


def test_build_binds_arguments_and_what_the_framework_provides():
    params = [torch.nn.Parameter(torch.zeros(2))]
    optimizer = KINDS["optimizer"].build(
        {"type": "AdamW", "args": {"lr": 1, "betas": [0.5, 0.9]}}, "optimizer", params=params
    )
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.9)  # a list where the signature says tuple
    given = {"optimizer": optimizer, "total_steps": 5}
    build = KINDS["lr_scheduler"].build
    assert build({"type": "halving", "args": {"every": 3}}, "lr_scheduler", **given).step_size == 15
    assert build({"type": "StepLR", "args": {"step_size": 4}}, "lr_scheduler", **given).step_size == 4
    chain = {"schedulers": [{"type": "LinearLR"}, {"type": "StepLR", "args": {"step_size": 1}}], "milestones": [3]}
    assert build({"type": "SequentialLR", "args": chain}, "lr_scheduler", **given)._milestones == [3]
    loss = KINDS["loss"].build({"type": "toy_loss", "args": {"label_smoothing": 0.5}}, "loss")
    assert loss(torch.ones(4), None).item() == 2.0
    trainer = KINDS["trainer"].build(
        {"type": "SemiTrainer", "args": {"size": [1, 2]}}, "trainer", KINDS, parts={"a": 1}
    )
    assert trainer.parts == {"a": 1} and trainer.threshold == "fixed" and trainer.size == (1, 2)
    view = KINDS["transform"].build(
        {"type": "OneOf", "args": {"transforms": ["HorizontalFlip", {"type": "Blur"}]}}, "v"
    )
    assert [type(t).__name__ for t in view.transforms] == ["HorizontalFlip", "Blur"]


def test_what_a_constructor_refuses_is_the_users_to_fix():
    params = [torch.nn.Parameter(torch.zeros(2))]
    assert problems(KINDS["optimizer"].build, {"type": "AdamW", "args": {"lr": -1}}, "optimizer", params=params) == [
        "optimizer.args: AdamW: Invalid learning rate: -1"
    ]
    assert problems(
        KINDS["transform"].build, {"type": "CoarseDropout", "args": {"num_holes_range": [3, 2]}}, "v[0]"
    ) == [
        "v[0].args.num_holes_range: CoarseDropout: First value should be less than the second value, got (3, 2) instead"
    ]
    assert problems(
        KINDS["dataset"].build, {"type": "Faces", "args": {"root": "x", "gender": "female"}}, "dataset"
    ) == ["dataset.args: Faces: AssertionError"]


@pytest.mark.parametrize(
    ("kind", "component", "message"),
    [
        ("optimizer", {"type": "AdamW", "args": {"params": []}}, "o.args.params: AdamW has no argument 'params'"),
        ("optimizer", {"type": "SGD", "args": {"lr": None}}, "o.args.lr: expected a number, got null"),
        ("optimizer", {"type": "SGD", "args": {"nesterov": 1}}, "o.args.nesterov: expected true or false, got 1"),
        (
            "optimizer",
            {"type": "AdamW", "args": {"betas": [0.9]}},
            "o.args.betas: expected a list [a number, a number], got",
        ),
        (
            "trainer",
            {"type": "PlainTrainer", "args": {"parts": 1}},
            "o.args.parts: PlainTrainer has no argument 'parts'; it",
        ),
        (
            "lr_scheduler",
            {"type": "OneCycleLR", "args": {"max_lr": 1, "anneal_strategy": "lin"}},
            'expected "cos" or "linear"',
        ),
        (
            "transform",
            {"type": "Affine", "args": {"scale": {"x": "a"}}},
            "o.args.scale: expected a list [a number, a number], a",
        ),
        ("transform", {"type": "CoarseDropout", "args": {"max_holes": 8}}, "CoarseDropout has no argument 'max_holes'"),
        ("dataset", "Faces", "o.args.root: missing; Faces needs a string"),
    ],
)
def test_binding_against_live_signatures(kind, component, message):
    found = KINDS[kind].problems(component, "o", KINDS)
    assert len(found) == 1 and message in found[0], found


def test_build_refuses_before_calling():
    assert problems(KINDS["align"].build, "prior", "trainer.args.align", class_counts=torch.ones(2)) == [
        "trainer.args.align.args.momentum: missing; prior needs a number"
    ]
    with pytest.raises(ConfigError, match=r"^optimizer.type: no optimizer 'Adan'; did you mean 'Adam'\?$"):
        KINDS["optimizer"].find("Adan", "optimizer")
    with pytest.raises(TypeError, match="class_counts"):  # our fault, not the config's
        KINDS["align"].build({"type": "prior", "args": {"momentum": 0.9}}, "trainer.args.align")


# The generated schema ------------------------------------------------------------------------------------------------


def test_schema_accepts_what_is_right_and_refuses_what_is_wrong(schema_file):
    schema = json.loads(schema_file.read_text(encoding="utf-8"))
    assert schema_file.read_text(encoding="utf-8") == schema_text(KINDS)  # generated alike each time
    valid = functools.partial(fits, schema=schema)
    assert valid(EXAMPLE) and valid(MINIMAL) and valid({"extends": "base.json", "trainer": {"epochs": 3}})
    for name in ("misspelt section", "misspelt argument", "string for a number", "out of range", "nested transforms"):
        assert not valid(mistakes()[name][0]), name
    for wrong in ({"optimizer__type": "Adan"}, {"metrics": ["acc"]}, {"views__strong": ["Blurr"]}, {"trainer": ...}):
        assert not valid(changed(**wrong)), wrong
    if importlib.util.find_spec("jsonschema"):
        import jsonschema

        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(schema).validate(EXAMPLE)


def test_schema_describes_arguments(schema_file):
    entries = json.loads(schema_file.read_text(encoding="utf-8"))["x-components"]
    lr = entries["optimizer"]["AdamW"]["properties"]["lr"]
    assert lr["type"] == "number" and lr["default"] == 1e-3 and "learning rate" in lr["description"]
    assert entries["dataset"]["Faces"]["x-required"] == ["root"]
    assert entries["dataset"]["Faces"]["properties"]["root"] == {
        "type": "string",
        "description": "folder of the photos.",
    }
    assert entries["lr_scheduler"]["MultiStepLR"]["properties"]["milestones"]["items"] == {"type": "integer"}


def test_keyword_arguments_of_a_subclass_are_those_of_the_class_it_extends(folder, schema_file):
    own = describe(OwnTrainer, keyword_only=True).parameters
    assert own.keys() == {"threshold", "align", "lambda_u", "size", "lambda_own"}
    assert own["lambda_u"].schema["default"] == 2.0 and own["align"].per_head
    args = {"align": {"type": "prior", "args": {"momentum": "0.9"}}, "lambda_owm": 1, "size": 4}
    path = write(changed(trainer__type="OwnTrainer", trainer__args=args))
    found = problems(load_config, path, catalogue=schema_file)
    assert [line.partition(": ")[2] for line in found] == [
        'trainer.args.align.args.momentum: expected a number, got "0.9"',
        "trainer.args.lambda_owm: OwnTrainer has no argument 'lambda_owm'; did you mean 'lambda_own'?",
    ]
    path = write(changed(trainer__type="LooseTrainer", trainer__args={"anything": 1}))
    assert config_problems(load_config(path, catalogue=schema_file), KINDS) == []


def test_a_class_that_has_changed_since_is_left_to_itself(folder, schema_file):
    """Its new argument must not be refused because the generated file is older."""
    path = write(changed(dataset__args={"rot": "data"}, optimizer__args={"lrr": 1}))
    assert len(problems(load_config, path, catalogue=schema_file)) == 3
    schema = json.loads(schema_file.read_text(encoding="utf-8"))
    faces, adamw = schema["x-components"]["dataset"]["Faces"], schema["x-components"]["optimizer"]["AdamW"]
    assert re.fullmatch(r"tests/test_config.py:Faces#\w{8} tests/test_config.py:Reader#\w{8}", faces["x-origin"])
    assert adamw["x-origin"].startswith("torch==")
    faces["x-origin"] = faces["x-origin"].replace("Faces#", "Faces#0")
    adamw["x-origin"] = "torch==0.4"
    Path("older.json").write_text(json.dumps(schema))
    config = load_config(path, catalogue=Path("older.json"))
    assert len(config_problems(config, KINDS)) == 3


def test_catalogue_that_is_not_there(folder):
    Path("other.json").write_text("{}")
    assert load_catalogue(Path("none.json")) is None and load_catalogue(Path("other.json")) is None
    assert isinstance(load_config(write(MINIMAL), catalogue=Path("none.json")), Config)


def test_a_wrong_config_is_reported_fast_and_without_torch(folder, schema_file):
    path = write(changed(optimizer__args={"lrr": 1}))
    code = f"""
import sys, time
start = time.process_time()
import utils.config
imported = time.process_time() - start
try:
    utils.config.load_config({path!r}, catalogue=utils.config.catalogue.Path({str(schema_file)!r}))
except utils.config.load.ConfigError as error:
    assert "did you mean 'lr'" in str(error)
    print(imported, time.process_time() - start)
assert not {{"torch", "timm", "albumentations", "numpy", "pandas"}} & sys.modules.keys()
"""
    runs = []
    for _ in range(3):  # the fastest of three: other programs share the machine
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        runs.append(tuple(map(float, done.stdout.split())))
    imported, reported = map(min, zip(*runs))
    assert imported < 0.4 and reported < 1.0


def test_what_others_say_of_a_key_names_its_source_once(folder, schema_file):
    write(EXAMPLE)
    config = load_config("configs/x.json", ["arch.args.backbone=nix"], catalogue=schema_file)

    def said(text: str, error: type[UserError] = UserError) -> str:
        @says_where
        def fails(config: Config, *, text: str) -> None:
            raise error(text)

        with pytest.raises(error) as caught:
            says_where(fails)(config, text=text)
        return str(caught.value)

    assert said("arch.args.backbone: no nix") == "-s arch.args.backbone=nix: arch.args.backbone: no nix"
    for text in (
        "labels.corrections: 1 row\n  1: …",
        "split.from a.csv: no",
        "split: torn",
        "data set 'a': dataset[0].args.x: y",
    ):
        assert said(text) == f"configs/x.json: {text}"
    for text in (
        "labels.csv: no such file",
        "metrics.csv: damaged",
        "split 'valid': nothing",
        "loss is nan",
        "data set 'a': no",
    ):
        assert said(text) == text
    assert said("seed: a\nx.json: b", ConfigError) == "configs/x.json: seed: a\nx.json: b"
