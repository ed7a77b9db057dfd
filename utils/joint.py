"""The joint label: one class for every combination of the heads' classes."""

JOINT = "joint"
MOST_JOINT_CLASSES = 36  # more combinations than labels tell apart
