"""The pseudo-labeler of one head: weak-view logits to targets and weights, and sums that show what it does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class PseudoLabels:
    """target int64 [U], weight [U] in [0, 1], confidence [U]: the largest aligned probability."""

    target: Tensor
    weight: Tensor
    confidence: Tensor


class PseudoLabeler(nn.Module):
    """threshold: probs -> weights; align: probs -> probs; debias: logits -> logits. Running state is in buffers."""

    def __init__(self, classes: tuple[str, ...], class_counts: Tensor, threshold: nn.Module, align=None, debias=None):
        super().__init__()
        self.classes = classes
        self.threshold, self.align, self.debias = threshold, align, debias
        self.labeled_prior: Tensor
        self.register_buffer("labeled_prior", (class_counts / class_counts.sum()).float(), persistent=False)

    @torch.no_grad()
    def forward(self, logits: Tensor) -> PseudoLabels:
        """Weak-view logits [U, C] of the live model."""
        logits = logits.detach().float()
        probs = (logits if self.debias is None else self.debias.pseudo(logits)).softmax(dim=1)
        if self.align is not None:
            probs = self.align(probs)
        confidence, target = probs.max(dim=1)
        return PseudoLabels(target, self.threshold(probs), confidence)

    def consistency_loss(self, logits: Tensor, labels: PseudoLabels) -> Tensor:
        """Cross entropy of strong-view logits [U, C] against the pseudo-labels, averaged over ALL U rows (eq. 4)."""
        logits = logits.float() if self.debias is None else self.debias.student(logits.float())
        return (F.cross_entropy(logits, labels.target, reduction="none") * labels.weight).mean()

    @torch.no_grad()
    def sums(self, labels: PseudoLabels, hidden: Tensor | None) -> dict[str, Tensor]:
        """What `values` needs, as sums over rows. hidden: int64 [U] labels kept aside, −1 where there is none."""
        one_hot = F.one_hot(labels.target, len(self.classes)).to(labels.weight.dtype)
        accepted = labels.weight > 0
        sums = {
            "rows": torch.ones_like(labels.weight).sum(),
            "weight": (one_hot * labels.weight[:, None]).sum(dim=0),
            "predicted": one_hot.sum(dim=0),
            "confidence": labels.confidence.sum(),
            "threshold": self.threshold.per_class(len(self.classes)),  # type: ignore[operator]
            "batches": torch.ones(()),
        }
        if hidden is not None:
            known = accepted & (hidden >= 0)
            sums["known"] = known.sum()
            sums["right"] = (known & (hidden == labels.target)).sum()
        return sums

    def values(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """An epoch's diagnostics from its sums; what is undefined (no pseudo-label accepted) is left out."""
        rows, accepted = float(sums["rows"]), float(sums["weight"].sum())
        values = {
            "pass_rate": accepted / rows,
            "confidence": float(sums["confidence"]) / rows,
            **{f"predicted/{c}": float(s) / rows for c, s in zip(self.classes, sums["predicted"])},
            **{f"threshold/{c}": float(s / sums["batches"]) for c, s in zip(self.classes, sums["threshold"])},
            **{
                f"pass_rate/{c}": float(s / n)
                for c, s, n in zip(self.classes, sums["weight"], sums["predicted"])
                if n > 0
            },
        }
        if accepted > 0:
            share = sums["weight"].double() / accepted
            prior = self.labeled_prior.double().cpu().clamp(min=1e-12)
            values.update({f"pseudo/{c}": float(s) for c, s in zip(self.classes, share)})
            values["pseudo_kl"] = float((share * (share.clamp(min=1e-12) / prior).log()).sum())
        if float(sums.get("known", torch.zeros(()))) > 0:
            values["pseudo_accuracy"] = float(sums["right"] / sums["known"])
        return values

    def describe(self, head: str, values: dict[str, float]) -> str:
        """One line for people about an epoch's `values`."""
        text = f"{head}: {values['pass_rate']:.0%} of the pseudo-labels accepted"
        if "pseudo_kl" in values:
            shares = ", ".join(f"{c} {values[f'pseudo/{c}']:.1%}" for c in self.classes)
            labels = ", ".join(f"{c} {p:.1%}" for c, p in zip(self.classes, self.labeled_prior.tolist()))
            text += f": {shares} (labels: {labels}; KL {values['pseudo_kl']:.3f})"
        text += f"; mean confidence {values['confidence']:.3f}"
        if "pseudo_accuracy" in values:
            text += f"; accuracy against hidden labels {values['pseudo_accuracy']:.3f}"
        return text
