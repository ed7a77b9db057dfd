"""The methods that `semi_supervised.py` compares: their titles in the table, and what they change in the config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """settings: as after -s, over the config. all_labels: with the labels that the config hides. own_trainer: nothing
    of the config's trainer.args is kept. keeps: which of them are where another type would take them all away."""

    title: str
    settings: tuple[str, ...] = ()
    all_labels: bool = False
    frozen: bool = False
    own_trainer: bool = False
    keeps: tuple[str, ...] = ()


# A config may have any of these, and a table that says "cross entropy" must not depend on that.
PLAIN_HEAD = "arch.args.head=plain"
NO_DEBIAS = "trainer.args.debias=null"
CROSS_ENTROPY = (
    "loss.type=cross_entropy",
    "loss.args.label_smoothing=0.0",
    "loss.args.class_weight=null",
    "trainer.evaluation_prior=0",
)
AS_CONFIG = "trainer.type=FixMatchTrainer"
ADJUSTED = ("loss.type=logit_adjustment", "data_loader.sampler=random")
SUPERVISED = ("trainer.type=SupervisedTrainer", PLAIN_HEAD)
FIXMATCH = (
    AS_CONFIG,
    PLAIN_HEAD,
    "data_loader.sampler=random",
    "views.train=flip_translate",
    "views.weak=flip_translate",
    "views.strong=randaugment",
    'trainer.args={"threshold": {"type": "fixed", "args": {"value": 0.95}}}',  # for the rest FixMatchTrainer's defaults
)
PUBLISHED = (*FIXMATCH, *CROSS_ENTROPY)
SWITCHES = ("threshold", "align", "debias", "class_weight")
RAMP = ("ramp_up", "warm_up_epochs")
THRESHOLDS = ("flexmatch", "freematch", "softmatch", "adamatch")
FP32, JOINT = "trainer.precision=fp32", "trainer.args.weak_forward=joint"
CONTIGUOUS = 'trainer.speed={"memory_format": "contiguous"}'
LEVERS = {  # the title and what is set
    "fp32": ("fp32", FP32),
    "bf16": ("bf16", "trainer.precision=bf16"),
    "contiguous": ("fp32, contiguous memory", FP32, CONTIGUOUS),
    "joint": ("fp32, weak view with gradient", FP32, JOINT),
    "by-hand": ("fp32, contiguous memory, weak view with gradient", FP32, CONTIGUOUS, JOINT),
    "selective": ("fp32, selective", FP32, "trainer.args.selective=true"),
}
ABC = ("arch.args.head=abc", "trainer.evaluation_prior=0")


def _published(title: str, *more: str, base: tuple[str, ...] = PUBLISHED) -> Method:
    return Method(title, (*base, *more), own_trainer=True)


METHODS: dict[str, Method] = {
    "frozen": Method("logistic regression on frozen features, balanced class weights", frozen=True),
    "supervised": Method("supervised, cross entropy", (*SUPERVISED, *CROSS_ENTROPY)),
    "adjusted": Method("supervised, logit adjustment", (*SUPERVISED, *ADJUSTED)),
    "pseudo_label": Method(
        "pseudo-labels (Lee 2013), the rest as the config",
        ("trainer.type=PseudoLabelTrainer",),
        keeps=(*SWITCHES, "lambda_u", *RAMP, "unlabeled_from", "abc_threshold", "abc_weight"),
    ),
    # Its lambda_u is on another scale than FixMatch's.
    "mean_teacher": Method(
        "mean teacher, the rest as the config",
        ("trainer.type=MeanTeacherTrainer", "trainer.ema=0.99", PLAIN_HEAD),
        keeps=RAMP,
    ),
    "published": _published("FixMatch as published"),
    "published+align": _published("published + align prior", "trainer.args.align=prior"),
    # The prior at evaluation is the config's wherever a network learns the odds of balanced classes.
    "published+adjusted": _published(
        "published + logit adjustment in loss and debias",
        *ADJUSTED,
        "trainer.args.debias=logit_adjustment",
        base=FIXMATCH,
    ),
    "published+debiaspl": _published("published + debias debiaspl", "trainer.args.debias=debiaspl"),
    "published+simpro": _published(
        "published + debias simpro", *CROSS_ENTROPY[:-1], "trainer.args.debias=simpro", base=FIXMATCH
    ),
    "published+abc": _published("published + head abc", *ABC),
    **{
        f"published+{name}": _published(f"published + threshold {name}", f"trainer.args.threshold={name}")
        for name in THRESHOLDS
    },
    "fixmatch": Method("FixMatch as the config has it", (AS_CONFIG,)),
    **{
        name: Method(f"as the config, {key} {name}", (AS_CONFIG, f"trainer.args.{key}={name}"))
        for key, names in (
            ("threshold", THRESHOLDS),
            ("align", ("uniform", "estimated", "crest_plus")),
            ("debias", ("debiaspl",)),
        )
        for name in names
    },
    # simpro adjusts the labeled logits itself.
    "simpro": Method(
        "as the config, debias simpro, cross entropy",
        (AS_CONFIG, *CROSS_ENTROPY[:-1], "trainer.args.debias=simpro"),
    ),
    "no-align": Method("as the config, align null", (AS_CONFIG, "trainer.args.align=null")),
    "no-debias": Method("as the config, debias null", (AS_CONFIG, NO_DEBIAS)),
    "abc": Method("as the config, head abc", (AS_CONFIG, *ABC)),
    "saw": Method(
        "as the config, cross entropy, class_weight saw in both losses, debias null",
        (AS_CONFIG, *CROSS_ENTROPY, "loss.args.class_weight=saw", "trainer.args.class_weight=saw", NO_DEBIAS),
    ),
    "balanced-odds": Method("as the config, evaluation_prior 0", (AS_CONFIG, "trainer.evaluation_prior=0")),
    **{name: Method(f"as the config, {said}", (AS_CONFIG, *settings)) for name, (said, *settings) in LEVERS.items()},
    "all-frozen": Method("logistic regression on frozen features, all labels", all_labels=True, frozen=True),
    "all": Method("supervised, all labels, cross entropy", (*SUPERVISED, *CROSS_ENTROPY), all_labels=True),
    "all-adjusted": Method("supervised, all labels, logit adjustment", (*SUPERVISED, *ADJUSTED), all_labels=True),
}
CORE = ("frozen", "supervised", "adjusted", "published", "fixmatch", "all-frozen", "all", "all-adjusted")
GROUPS: dict[str, Sequence[str]] = {
    "core": CORE,
    "switches": [name for name in METHODS if name not in (*CORE, *LEVERS)],
    "levers": list(LEVERS),
}
