"""Readers: one function per on-disk layout, root folder → label frame. `dataset.type` names one of them."""

from data_loader.readers.celeba_hair import CelebAHair
from data_loader.readers.image_folder import ImageFolder
from data_loader.readers.label_csv import LabelCSV
from data_loader.readers.mask_faces import MaskFaces
from data_loader.readers.unlabeled_images import UnlabeledImages
from data_loader.readers.utk_face import UTKFace

__all__ = ["CelebAHair", "ImageFolder", "LabelCSV", "MaskFaces", "UTKFace", "UnlabeledImages"]
