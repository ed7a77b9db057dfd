"""The unlabeled rows of one step over all processes, without those that a head does not learn from."""

from __future__ import annotations

from torch import Tensor

from trainer.pseudo_label.processes import gather_rows, own_rows


class StepRows:
    """local: rows of this process, U. rows int64 [U]: their places among the run's unlabeled rows. places int64 [N]: of
    each of these among the head's, −1 for those it does not learn from; None for all.

    self.places: the head's places of the rows that are left, K of them over all processes. Raises ValueError if
    `places` are given but `rows` are not.
    """

    def __init__(self, local: int, rows: Tensor | None, places: Tensor | None):
        self.local = local
        self.kept: Tensor | None = None
        self.places = None if rows is None else gather_rows(rows)
        if places is None:
            return
        if self.places is None:
            raise ValueError("a head that learns from some of the rows needs to know which these are")
        of_head = places[self.places]
        self.kept = of_head >= 0
        self.places = of_head[self.kept]

    def gather(self, tensor: Tensor) -> Tensor:
        """[U, …] of this process -> [K, …]."""
        rows = gather_rows(tensor)
        return rows if self.kept is None else rows[self.kept]

    def own(self, tensor: Tensor) -> Tensor:
        """[K, …] -> [U, …] of this process, 0 for rows that the head does not learn from."""
        if self.kept is None:
            return own_rows(tensor, self.local)
        of_all = tensor.new_zeros(len(self.kept), *tensor.shape[1:])
        of_all[self.kept] = tensor
        return own_rows(of_all, self.local)

    def share(self) -> Tensor | None:
        """[U]: rows over K for the rows that are left, 0 for the others; None where the head learns from all."""
        if self.kept is None:
            return None
        return own_rows(self.kept.float() * len(self.kept) / self.kept.sum().clamp(min=1), self.local)
