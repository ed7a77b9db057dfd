"""The collapse guard: what it says, what it does, and that a run which was stopped and continued does the same."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from base.base_trainer import BaseTrainer
from model.loss import logit_adjustment
from tests import conftest
from tests.test_pseudo_label import ImbalancedData, LinearNet, start, train  # noqa: F401  (start is a fixture)
from tests.test_training import rows, write_config
from trainer.collapse_guard import CollapseGuard
from trainer.collapse_signs import Expected, InUse, find_collapse
from trainer.pseudo_label.kinds import build_labeler
from utils.errors import ConfigError

HAIR = {"hair": Expected({"covered": 0.12, "shown": 0.88})}


def epoch(
    covered: float,
    rate: float = 0.7,
    labeled: float = 0.3,
    unlabeled: float = 0.1,
    recall: tuple[float, float] | None = (0.6, 0.9),
    accepted: float = 2000.0,
) -> dict[str, float]:
    return {
        **({} if recall is None else {"valid/hair/recall/covered": recall[0], "valid/hair/recall/shown": recall[1]}),
        "train/hair/pass_rate": rate,
        "train/hair/accepted": accepted,
        "train/hair/pseudo/covered": covered,
        "train/hair/pseudo/shown": 1 - covered,
        "train/loss_labeled": labeled,
        "train/loss_unlabeled": unlabeled,
    }


@pytest.mark.parametrize(
    ("history", "says"),
    [
        ([epoch(0.98)], "98 % of the accepted pseudo-labels are 'covered' while 12 % of the labels are"),
        ([epoch(0.12), epoch(0.5), epoch(0.5)], "50 % of the accepted pseudo-labels are 'covered'"),
        ([epoch(0.001)] * 3, "hardly any accepted pseudo-label has been 'covered' (0.1 % of them while 12 % of"),
        ([epoch(0.02, recall=(0.0, 1.0))], "every validation image is predicted as 'shown' while 88 % of the"),
        ([epoch(0.12, recall=(1.0, 0.0))] * 2, "every validation image is predicted as 'covered' while 12 % of the"),
        ([epoch(0.1, rate=0.0)] * 2, "no pseudo-label has been accepted for 2 epochs"),
        ([epoch(0.12, rate=1.0)] * 2, "every pseudo-label has been accepted for 2 epochs"),
        ([epoch(0.12, rate=1.0)] * 3, "every pseudo-label has been accepted for 3 epochs"),
        ([epoch(0.0)], "100 % of the accepted pseudo-labels are 'shown' while 88 % of the labels are"),
        ([epoch(0.0) | {"train/hair/predicted/shown": 0.98}], "100 % of the accepted pseudo-labels are 'shown' while"),
        ([epoch(0.05), epoch(0.011)], "99 % of the accepted pseudo-labels are 'shown' while 88 % of the labels are"),
        (
            [epoch(0.12) | {"train/hair/pseudo_accuracy": share} for share in (0.97, 0.89, 0.871)],
            "87.1 % of the accepted pseudo-labels are right by the labels that were set aside, hardly more than if all "
            "were 'shown' (88 %)",
        ),
        (
            [epoch(0.12, labeled=x, unlabeled=u) for x, u in ((0.3, 0.07), (0.2, 0.08), (0.1, 0.09))],
            "the unlabeled loss per accepted pseudo-label rises (0.100, 0.114, 0.129) while the labeled loss falls",
        ),
    ],
)
def test_the_guard_says_what_goes_wrong_and_what_to_do(history, says):
    found = find_collapse(history, len(history), HAIR)
    assert len(found) == 1 and says in found[0].text and "\n" not in found[0].text
    assert "trainer.args." in found[0].text


@pytest.mark.parametrize(
    "history",
    [
        [epoch(0.034), epoch(0.058), epoch(0.09)],
        [epoch(0.12), epoch(0.5)],
        # Better than the common class for everybody, or worse for one epoch only, or of too few to say.
        [epoch(0.12) | {"train/hair/pseudo_accuracy": share} for share in (0.9, 0.91, 0.90)],
        [epoch(0.12) | {"train/hair/pseudo_accuracy": share} for share in (0.95, 0.5)],
        [epoch(0.12, accepted=5) | {"train/hair/pseudo_accuracy": 0.4}] * 3,
        # One class, but not yet for long and not taught by the pseudo-labels; only one class to be predicted.
        [epoch(0.12, recall=(0.0, 1.0))],
        [epoch(0.02, recall=(0.0, 1.0), rate=0.001)],
        [epoch(0.02, recall=(math.nan, 1.0))] * 2,
        [epoch(1.0, rate=0.001)],
        # More than a tenth of the usual share; too few rows; the rare class is predicted, but without confidence.
        [epoch(0.013)],
        [epoch(0.0, accepted=160)],
        [epoch(0.0, rate=0.005)],
        [epoch(0.0) | {"train/hair/predicted/shown": 0.95, "train/hair/predicted/covered": 0.05}],
        [epoch(0.1, rate=0.5), epoch(0.1, rate=1.0), epoch(0.1, rate=1.0)],
        # Shares of a few pseudo-labels are chance.
        [epoch(1.0, accepted=1)],
        [epoch(0.5, accepted=19)] * 2,
        # A threshold that becomes stricter leaves the harder rows.
        [epoch(0.12, r, x, u) for r, x, u in ((1.0, 0.3, 0.2), (1.0, 0.2, 0.28), (0.79, 0.1, 0.23))],
        # The loss over all rows rises because more of them are accepted.
        [epoch(0.12, r, x, u) for r, x, u in ((0.2, 0.3, 0.04), (0.5, 0.2, 0.08), (0.9, 0.1, 0.1))],
    ],
)
def test_the_guard_is_silent_about_a_healthy_run(history):
    assert find_collapse(history, len(history), HAIR) == []


@pytest.mark.parametrize(
    ("history", "in_use", "advice"),
    [
        ([epoch(0.1, rate=0.0)] * 2, InUse("freematch", has_value=False), "raise trainer.args.warm_up_epochs"),
        ([epoch(0.12, rate=1.0)] * 2, InUse("freematch", has_value=False), "set trainer.args.threshold to fixed"),
        (
            [epoch(0.001)] * 3,
            InUse(adjusted=True),
            "set trainer.args.threshold to freematch or lower its value",
        ),
        (
            [epoch(0.001)] * 3,
            InUse("freematch", has_value=False),
            "set loss.type to logit_adjustment",
        ),
        (
            [epoch(0.001)] * 3,
            InUse("freematch", has_value=False, adjusted=True),
            "lower trainer.args.lambda_u or raise trainer.args.warm_up_epochs",
        ),
        ([epoch(0.98)], InUse(may_align=False), "lower trainer.args.lambda_u or raise trainer.args.warm_up_epochs"),
        (
            [epoch(0.12, recall=(1.0, 0.0))] * 2,
            InUse(may_align=False, adjusted=True),
            "lower trainer.args.lambda_u or raise trainer.args.warm_up_epochs",
        ),
        (
            [epoch(0.12, recall=(1.0, 0.0)) | {"train/lambda_u": 0.0}] * 2,
            InUse(),
            "this is not the unlabeled images', which have taught nothing: raise trainer.epochs or set loss.type to "
            "logit_adjustment",
        ),
    ],
)
def test_the_advice_is_about_what_is_not_in_use(history, in_use, advice):
    [sign] = find_collapse(history, len(history), {"hair": replace(HAIR["hair"], in_use=in_use)})
    assert sign.text.endswith(f": {advice}")


def test_the_common_class_is_not_brought_back_by_what_favours_rare_ones():
    found = find_collapse([epoch(0.95)] * 3, 3, HAIR)
    lost = next(sign.text for sign in found if "hardly any accepted pseudo-label has been 'shown'" in sign.text)
    assert "logit_adjustment" not in lost


def test_a_threshold_that_starts_open_is_no_collapse():
    expected = {"hair": replace(HAIR["hair"], in_use=InUse("flexmatch", starts_open=True))}
    assert find_collapse([epoch(0.12, rate=1.0)] * 2, 2, expected) == []
    counts = torch.tensor([30.0, 70.0])
    labeler = build_labeler(("a", "b"), counts, "flexmatch", None, "simpro", unlabeled_rows=9)
    assert labeler.expected().in_use == InUse("flexmatch", starts_open=True, adjusted=True, may_align=False)
    labeler = build_labeler(("a", "b"), counts, "freematch", "prior", "logit_adjustment", adjusted=True)
    assert labeler.expected().in_use == InUse("freematch", has_value=False, adjusted=True)


def test_a_head_without_unlabeled_rows_does_not_silence_the_others():
    guard, heads = CollapseGuard(), {**HAIR, "age": Expected({"young": 0.5, "old": 0.5})}
    assert [sign.head for sign in guard.observe(epoch(0.98), heads) or ()] == ["hair"]
    assert guard.observe({"train/loss": 1.0}, heads) is None and guard.epochs == 1


def test_the_guard_knows_alignment_and_continues_from_its_state():
    aligned = {"hair": Expected({"covered": 0.5, "shown": 0.5}, aligned=True, by_labels=False)}
    text = find_collapse([epoch(0.99)], 1, aligned)[0].text
    assert "50 % is the target of trainer.args.align: lower trainer.args.lambda_u" in text and "to prior" not in text

    guard, straight = CollapseGuard(), CollapseGuard()
    assert guard.observe({"train/loss": 1.0}, HAIR) is None and guard.epochs == 0, "the warm-up has no pseudo-labels"
    for values in (epoch(0.001), epoch(0.002), epoch(0.001)):
        expected = straight.observe(values, HAIR)
        stored = io.BytesIO()
        torch.save(guard.state_dict(), stored)
        stored.seek(0)
        guard = CollapseGuard()
        guard.load_state_dict(torch.load(stored, weights_only=True))
        assert guard.observe(values, HAIR) == expected
    assert expected and guard.in_a_row == 3


def test_every_pseudo_label_accepted_from_the_start_is_acted_upon():
    guard = CollapseGuard()
    acted = []
    for _ in range(3):
        guard.observe(epoch(0.12, rate=1.0), HAIR)
        acted.append(guard.must_act)
    assert acted == [False, False, True]
    guard.start_anew()
    assert [bool(guard.observe(epoch(0.12, rate=rate), HAIR)) for rate in (0.5, 1.0, 1.0, 1.0)] == [False] * 4


@pytest.mark.parametrize("every", [1, 2, 5])
def test_two_validations_in_a_row_count_however_far_apart(every: int):
    """Every validation image is predicted as the rare class; the pseudo-labels do not say so."""
    guard, said, acted = CollapseGuard(), [], []
    for number in range(1, 3 * every + 1):
        values = epoch(0.12, recall=(1.0, 0.0) if number % every == 0 else None)
        said.append(bool(guard.observe(values, HAIR)))
        acted.append(guard.must_act)
        stored = io.BytesIO()
        torch.save(guard.state_dict(), stored)
        stored.seek(0)
        guard = CollapseGuard()
        guard.load_state_dict(torch.load(stored, weights_only=True))
    assert [number for number, is_said in enumerate(said, 1) if is_said] == [2 * every, 3 * every]
    assert [number for number, acts in enumerate(acted, 1) if acts] == [3 * every]
    healthy = [epoch(0.12, recall=(1.0, 0.0)), epoch(0.12, recall=None), epoch(0.12)]
    guard = CollapseGuard()
    assert not any(guard.observe(values, HAIR) for values in [*healthy, epoch(0.12, recall=(1.0, 0.0))])


def test_a_sign_of_the_validation_images_stands_until_the_next_validation():
    """Both kinds of sign in turn: a row of two ends with a validation that is well, not with an epoch without one."""
    guard, one_class = CollapseGuard(), epoch(0.02, recall=(0.0, 1.0))
    assert guard.observe(one_class, HAIR) and guard.in_a_row == 1
    assert not guard.observe(epoch(0.06, recall=None), HAIR) and guard.in_a_row == 1
    assert guard.observe(one_class, HAIR) and guard.must_act
    assert not guard.observe(epoch(0.06, recall=None), HAIR) and not guard.must_act
    assert not guard.observe(epoch(0.06), HAIR) and guard.in_a_row == 0


NINE_TO_ONE = torch.tensor([90.0, 10.0])


def expected_of(align: str | dict) -> Expected:
    return build_labeler(("shown", "covered"), NINE_TO_ONE, "fixed", align, None).expected()


def test_an_estimated_target_does_not_hide_a_collapse():
    """The labeled rows are predicted as one class too, and the target of the alignment follows."""
    labeler = build_labeler(("shown", "covered"), NINE_TO_ONE, "fixed", "estimated", None)
    for _ in range(20):
        labeler(
            torch.tensor([[-6.0, 6.0]]).repeat(32, 1), torch.tensor([[-6.0, 6.0]]).repeat(8, 1), torch.zeros(8).long()
        )
    assert float(labeler.align.target[1]) > 0.99
    expected = labeler.expected()
    assert expected.shares == pytest.approx({"shown": 0.9, "covered": 0.1})
    sign = find_collapse([epoch(1.0)], 1, {"hair": expected})[0]
    assert "are 'covered' while 10 % of the labels are: set trainer.args.align to prior" in sign.text


def test_pseudo_labels_far_from_the_labels_are_remarked_upon_once_unless_the_config_gives_their_shares():
    guard, expected = CollapseGuard(), {"hair": expected_of("uniform")}
    said = [guard.observe(epoch(0.5), expected) for _ in range(4)]
    assert [len(signs) for signs in said] == [1, 0, 0, 0] and not guard.must_act and guard.in_a_row == 0
    assert said[0][0].text == (
        "hair: 50 % of the accepted pseudo-labels are 'covered' while 10 % of the labels are, since the target of "
        "trainer.args.align is not the labels' shares: set trainer.args.align to prior, with distribution if the "
        "unlabeled images have other shares than the labels"
    )
    copy = CollapseGuard()
    copy.load_state_dict(guard.state_dict())
    assert copy.observe(epoch(0.5), expected) == []
    given = expected_of({"type": "prior", "args": {"distribution": [0.5, 0.5]}})
    for of_head in (given, expected_of("prior"), expected_of("crest_plus"), expected_of("none")):
        shares = of_head.shares["covered"]
        assert CollapseGuard().observe(epoch(shares), {"hair": of_head}) == []
    # Balanced labels: equal shares are theirs.
    balanced = build_labeler(("shown", "covered"), torch.ones(2), "fixed", "uniform", None).expected()
    assert balanced.labels is None and CollapseGuard().observe(epoch(0.5), {"hair": balanced}) == []


# What it does --------------------------------------------------------------------------------------------------------

ONE_CLASS = {
    "train/label/pass_rate": 1.0,
    "train/label/pseudo/a": 1.0,
    "train/label/pseudo/b": 0.0,
    "train/loss_labeled": 0.3,
    "train/loss_unlabeled": 0.1,
    "valid/label/recall/a": 1.0,
    "valid/label/recall/b": 0.0,
}
NO_ALIGNMENT = {"threshold": {"type": "fixed", "args": {"value": 0.6}}, "align": None}


def after_two_bad_epochs(trainer) -> list[str]:
    train(trainer, range(5), 2)
    assert not any("as trainer.args.on_collapse asks" in line for line in trainer.epoch_warnings(dict(ONE_CLASS)))
    train(trainer, range(5, 10), 2)
    values = dict(ONE_CLASS)
    said = trainer.epoch_warnings(values)
    assert values["train/warnings"] == len([line for line in said if "asks" not in line]) >= 1
    return said


def resumed(trainer, fresh):
    """A copy of the trainer by way of a checkpoint's file format."""
    stored = io.BytesIO()
    old, new = ((of.model, of.parts.optimizer, of.trainer_state()) for of in (trainer, fresh))
    torch.save([part.state_dict() for part in old], stored)
    stored.seek(0)
    for part, state in zip(new, torch.load(stored, weights_only=True)):
        part.load_state_dict(state)
    fresh.step = trainer.step
    return fresh


def test_align_is_switched_on_after_two_bad_epochs_and_stays_on_after_a_resume(start):  # noqa: F811
    def make():
        trainer = start(2, **NO_ALIGNMENT, on_collapse="align")
        trainer.epochs = 4
        return trainer

    trainer, plain = make(), start(2, **NO_ALIGNMENT)
    said = after_two_bad_epochs(trainer)
    assert said[-1] == (
        "label: as trainer.args.on_collapse asks, pseudo-labels are aligned to the labels' shares from epoch 3 on"
    )
    assert train(plain, range(10), 2) and all(map(torch.equal, plain.model.parameters(), trainer.model.parameters()))
    again = resumed(trainer, make())
    assert again.labeler("label").expected().aligned
    losses = train(trainer, range(10, 15), 2)
    assert train(again, range(10, 15), 2) == losses
    assert torch.equal(again.labeler("label").align.running, trainer.labeler("label").align.running)
    assert int(again.labeler("label").align.updates) == 5

    # The pseudo-labels are those of `align: prior`, from a fresh running mean.
    configured = start(2, **{**NO_ALIGNMENT, "align": "prior"}).labeler("label")
    late = make().labeler("label")
    logits = torch.randn(64, 2)
    late(logits)
    late.align.on = True
    assert torch.equal(late(logits).weight, configured(logits).weight)
    for _ in range(4):
        assert not any("asks" in line for line in trainer.epoch_warnings(dict(ONE_CLASS))), "it is on already"


def test_warm_up_comes_back_with_its_ramp_and_after_a_resume(start):  # noqa: F811
    def make():
        trainer = start(2, **NO_ALIGNMENT, on_collapse="warm_up", lambda_u=2.0, ramp_up=0.5)
        trainer.epochs = 6
        return trainer

    trainer = make()
    said = after_two_bad_epochs(trainer)
    assert said[-1].startswith("as trainer.args.on_collapse asks, epoch 3 is a warm-up again")
    again = resumed(trainer, make())
    losses, lambdas = [], []
    for step in range(10, 20):
        lambdas.append(None if trainer.in_warm_up else trainer.current_lambda_u)
        losses += train(trainer, range(step, step + 1), 2)
    assert lambdas == [None] * 5 + [pytest.approx(2.0 * k / 15) for k in range(5)]
    assert train(again, range(10, 20), 2) == losses
    assert trainer.epoch_warnings({"train/loss": 1.0}) == [], "an epoch of warm-up is no sign"
    # Once for each event: what comes after the warm-up needs two bad epochs again.
    assert [any("asks" in line for line in trainer.epoch_warnings(dict(ONE_CLASS))) for _ in range(2)] == [False, True]


def test_on_collapse_refuses_what_it_cannot_do(start):  # noqa: F811
    with pytest.raises(ConfigError, match=r"on_collapse: align has nothing to switch on"):
        start(2, align="prior", on_collapse="align")


# The recorded failure, on points instead of faces ---------------------------------------------------------------------

FAILURE = {
    "threshold": {"type": "fixed", "args": {"value": 0.7}},
    "align": None,
    "debias": None,
    "lambda_u": 5.0,
    "ramp_up": 0.019,
    "warm_up_epochs": 0,
}
DEFAULT = {
    "threshold": {"type": "fixed", "args": {"value": 0.95}},
    "align": "prior",
    "debias": "logit_adjustment",
    "lambda_u": 1.0,
    "ramp_up": 0.3,
    "warm_up_epochs": 2,
}


class RareData(ImbalancedData):
    """Nine of class a to one of class b."""

    def __init__(self, classes):
        super().__init__(classes)
        self.class_counts = {"label": torch.tensor([90.0, 10.0])}

    def evaluation_batches(self, split: str):
        image, target = points(200, 10**6)
        yield {"eval": {"image": image, "target": {"label": target}}}


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    target = (torch.arange(count) % 10 == 0).long()
    centre = torch.zeros(count, 12)
    centre[:, 0] = 2.0 * target - 1
    return (centre + 0.7 * torch.randn(count, 12, generator=rng)).view(count, 3, 2, 2), target


def run_epochs(make_trainer, monkeypatch, epochs: int, adjusted: bool = False, **args) -> list[tuple[dict, list[str]]]:
    """Values and warnings of each epoch of 20 steps."""
    monkeypatch.setattr(conftest, "NoData", RareData)
    trainer = make_trainer(
        LinearNet(2),
        classes={"label": ("a", "b")},
        trainer={"type": "FixMatchTrainer", "args": args, "epochs": epochs, "steps_per_epoch": 20, "ema": None},
        optimizer={"type": "SGD", "args": {"lr": 0.05, "momentum": 0.9}},
    )
    trainer.normalize = trainer.scoring.normalize = lambda images: images
    if adjusted:
        loss = partial(logit_adjustment, class_counts=RareData({"label": ("a", "b")}).class_counts["label"])
        trainer.parts.losses = {"label": (loss, 1.0)}
    found = []
    labeled, target = points(20, 0)
    for epoch in range(epochs):
        trainer.network.train()
        for step in range(20 * epoch, 20 * epoch + 20):
            torch.manual_seed(step)
            weak, _ = points(40, step + 1)
            strong = weak + 0.5 * torch.randn(weak.shape)
            rows = torch.arange(40) % 40 * 3 + 5
            trainer.train_on(
                {
                    "labeled": {"image": labeled, "target": {"label": target}},
                    "unlabeled": {"weak": weak, "strong": strong, "row": rows},
                }
            )
        valid = trainer.scoring.evaluate(trainer.model, trainer.data.evaluation_batches("valid"), "valid")
        values = {**trainer.epoch_values(trainer.sums.read()), **valid}
        trainer.sums.clear()
        found.append((values, trainer.epoch_warnings(values)))
    return found


def balanced_accuracy(values: dict[str, float]) -> float:
    return (values["valid/label/recall/a"] + values["valid/label/recall/b"]) / 2


def test_the_recorded_failure_is_seen_in_the_first_epoch_and_the_default_does_not_fail(make_trainer, monkeypatch):
    failing = run_epochs(make_trainer, monkeypatch, 6, **FAILURE)
    for values, said in failing:
        assert balanced_accuracy(values) == 0.5 and values["train/label/pseudo/a"] > 0.99
        assert any("every validation image is predicted as 'a' while 90 % of the labels are" in line for line in said)
        shares = {key: value for key, value in values.items() if not key.startswith("valid/")}
        of_shares = find_collapse([shares], 1, {"label": Expected({"a": 0.9, "b": 0.1})})
        assert [sign.text.split(":")[1] for sign in of_shares] == [
            " 100 % of the accepted pseudo-labels are 'a' while 90 % of the labels are"
        ], "without validation images too"
    default = run_epochs(make_trainer, monkeypatch, 6, adjusted=True, **DEFAULT)
    assert min(balanced_accuracy(values) for values, _ in default[1:]) > 0.65
    assert not any("label:" in line for _, said in default for line in said)


def test_what_on_collapse_does_about_the_recorded_failure(make_trainer, monkeypatch):
    aligned = run_epochs(make_trainer, monkeypatch, 6, **FAILURE, on_collapse="align")
    assert [bool(said) for _, said in aligned] == [True, True, False, False, False, False]
    assert all(values["train/label/pseudo/b"] < 0.01 for values, _ in aligned[:2])
    assert all(0.03 < values["train/label/pseudo/b"] < 0.3 for values, _ in aligned[2:]), "the labels' share is 0.1"
    assert max(balanced_accuracy(values) for values, _ in aligned[2:]) > 0.65
    warm = run_epochs(make_trainer, monkeypatch, 6, **FAILURE, on_collapse="warm_up")
    assert ["train/label/pass_rate" in values for values, _ in warm] == [True, True, False, True, True, False]
    assert balanced_accuracy(warm[2][0]) > 0.5, "the labeled images alone teach the rare class"


# The command ---------------------------------------------------------------------------------------------------------


def test_warm_up_again_on_the_command_line_and_after_a_resume(
    tmp_path: Path, tiny_faces: Path, in_process, monkeypatch
):
    """Two epochs in a row without a single pseudo-label; the same rows whether the run was stopped or not."""
    config = write_config(
        tmp_path,
        tiny_faces,
        data_loader={"num_workers": 0},
        lr_scheduler=None,
        trainer={
            "args": {"threshold": {"type": "fixed", "args": {"value": 1.0}}, "on_collapse": "warm_up"},
            "epochs": 5,
            "steps_per_epoch": 2,
        },
    )
    done = in_process("train.py", "-c", str(config), "--run-id", "straight")
    assert done.code == 0 and "epoch 4 is a warm-up again, of labeled images only" in done.out
    log = (tmp_path / "saved" / "tiny" / "straight" / "train.log").read_text()
    assert "warning: as trainer.args.on_collapse asks, epoch 4 is" in log
    table = rows(tmp_path / "saved" / "tiny" / "straight")
    assert [row["train/warnings"] not in ("", "0") for row in table] == [False, True, True, False, False]
    assert [row["train/lambda_u"] != "" for row in table] == [True, True, True, False, True]

    finish = BaseTrainer._finish_epoch

    def interrupted(trainer: BaseTrainer) -> None:
        finish(trainer)
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(BaseTrainer, "_finish_epoch", interrupted)
    assert in_process("train.py", "-c", str(config), "--run-id", "stopped").code == 130
    monkeypatch.setattr(BaseTrainer, "_finish_epoch", finish)
    stopped = tmp_path / "saved" / "tiny" / "stopped"
    assert in_process("train.py", "-r", str(stopped)).code == 0
    assert rows(stopped) == table


def test_a_run_that_collapses_stops_with_its_checkpoint_on_disk(tmp_path: Path, tiny_faces: Path, in_process):
    args = {"threshold": {"type": "fixed", "args": {"value": 1.0}}, "on_collapse": "stop"}
    config = write_config(
        tmp_path,
        tiny_faces,
        data_loader={"num_workers": 0},
        trainer={"args": args, "epochs": 6, "steps_per_epoch": 2},
    )
    done = in_process("train.py", "-c", str(config), "--run-id", "x")
    assert done.code == 2 and done.out.count("warning: hue: no pseudo-label has been accepted for 2 epochs") == 2
    assert "stopped after epoch 3, as trainer.args.on_collapse asks:" in done.err
    last = torch.load(tmp_path / "saved" / "tiny" / "x" / "checkpoints" / "last.pth", weights_only=True)
    assert last["epoch"] == 3 and last["trainer"]["guard._extra_state"]["in_a_row"] == 2
