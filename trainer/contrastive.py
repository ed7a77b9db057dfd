"""Losses on embeddings of two views of the same images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """Normalised temperature-scaled cross entropy (SimCLR, Chen et al. 2020, eq. 1), averaged over all 2N rows.

    first, second: float [N, D], row i of both from the same image; every other of the 2N − 2 rows is a negative.
    """
    return F.cross_entropy(*similarities(first, second, temperature))


def similarities(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cosine similarity / temperature of each row with each, −∞ with itself, [2N, 2N]; and its partner, int64 [2N]."""
    with torch.autocast(first.device.type, enabled=False):  # cosines near 1 are 1/256 apart in bf16
        rows = F.normalize(torch.cat([first, second]).float(), dim=1)
        partner = torch.arange(len(rows), device=rows.device).roll(len(first))
        return (rows @ rows.T / temperature).fill_diagonal_(-torch.inf), partner
