"""Procedurally drawn faces in the layouts of CelebAMask-HQ and of the mask competition.

`person.py` says who and how, `photo.py` draws one picture (with `hair.py`, `features.py`, `wear.py`, `light.py` on a
`canvas.py`), `celeba.py` and `mask_faces.py` know the two layouts, `writing.py` makes the folder.
"""
