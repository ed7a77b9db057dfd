"""The joint label: one class for every combination of the heads' classes."""

from collections.abc import Mapping
from math import prod

JOINT = "joint"
MOST_JOINT_CLASSES = 36  # more combinations than labels tell apart


def has_joint(sizes: Mapping[str, int]) -> bool:
    """Whether heads {name: classes} make a joint answer that says something: not a single head, nor beside a head of
    that name, nor with too many combinations."""
    return len(sizes) > 1 and JOINT not in sizes and prod(sizes.values()) <= MOST_JOINT_CLASSES
