"""What a step does beside the tensors: normalising, seeding, counting."""

from __future__ import annotations

import pytest
import torch

from base.scoring import Normalize
from utils.random_state import hashed, seed_step
from utils.sums import TOGETHER, Sums, confusion_matrix

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_normalising_gives_the_bits_and_the_strides_of_the_formula_and_leaves_the_batch_alone(memory_format):
    normalize = Normalize(MEAN, STD, CPU)
    normalize.memory_format = memory_format
    mean, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    for shape in ((5, 8, 8, 3), (3, 36, 20, 3), (2, 20, 36, 3)):
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        for given in (images, images.float(), images[::2], images.permute(0, 2, 1, 3)):
            before = given.clone()
            expected = (given.permute(0, 3, 1, 2).float() - mean * 255) * (1 / (scale * 255))
            expected = expected.contiguous(memory_format=memory_format)
            found = normalize(given)
            assert torch.equal(found, expected) and found.stride() == expected.stride() and torch.equal(given, before)


def test_every_step_process_and_seed_has_random_numbers_of_its_own():
    keys = {hashed(seed, 7, step, rank) for seed in range(20) for step in range(500) for rank in range(4)}
    assert len(keys) == 20 * 500 * 4 and all(0 <= key < 2**63 for key in keys)
    # Neighbours differ in half of the bits, and torch's generator on the CPU takes the lower 32 only.
    flips = [(hashed(0, 7, step) ^ hashed(0, 7, step + 1)) for step in range(2000)]
    for bits in (63, 32):
        share = sum((flip & (2**bits - 1)).bit_count() for flip in flips) / (bits * len(flips))
        assert abs(share - 0.5) < 0.01
    seed_step(1, 2, 3)
    first = torch.rand(4)
    seed_step(1, 2, 3)
    assert torch.equal(torch.rand(4), first)


def test_rows_that_wait_are_counted_before_anything_is_read_or_saved():
    generator = torch.Generator().manual_seed(0)
    steps = [torch.randint(-1, 3, (2, n), generator=generator) for n in (700, 3, 1, *[5] * (2 * TOGETHER))]
    direct = torch.zeros(3, 3, dtype=torch.float64)
    sums = Sums(CPU)
    for number, (predicted, target) in enumerate(steps, start=1):
        direct += confusion_matrix(predicted.clamp(min=0), target, 3)
        with torch.autocast("cpu", torch.bfloat16):  # cannot count to 700
            sums.add_count("confusion", lambda p, t: confusion_matrix(p, t, 3), predicted.clamp(min=0), target)
            sums.add({"steps": 1.0, "loss": torch.tensor(0.1)})
        if number in (2, TOGETHER + 3):  # a run that stops here and continues
            state, sums = sums.state_dict(), Sums(CPU)
            sums.load_state_dict(state)
    total = sums.read()
    assert torch.equal(total["confusion"], direct) and float(total["steps"]) == len(steps)
    assert all(value.dtype == torch.float64 for value in total.values())
    sums.add_count("confusion", lambda p: p.sum(), torch.ones(3))
    sums.clear()
    assert sums.read() == {} and sums.state_dict() == {}
