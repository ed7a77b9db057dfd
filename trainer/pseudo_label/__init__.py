"""Pseudo-labels from weak-view logits: alignment, threshold and what to show about them."""
