"""Readers: one function per on-disk layout, root folder → label frame. `dataset.type` names one of them."""

from data_loader.readers.celeba_hair import CelebAHair
from data_loader.readers.label_csv import LabelCSV

__all__ = ["CelebAHair", "LabelCSV"]
