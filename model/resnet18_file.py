"""A whole classifier from a state dict of torchvision's ResNet-18, such as the public face gender classifiers."""

from __future__ import annotations

from pathlib import Path

import timm
from torch import nn

from model.weight_file import read_tensors
from model.weight_keys import backbone_keys, network_of
from utils.errors import UserError

ARCHITECTURE = "resnet18"
CLASSIFIER = "fc.weight"


def load_resnet18(path: Path) -> nn.Module:
    """ResNet-18 with its classifier, ready to evaluate; expects images of ImageNet's mean and std.

    Prefixes such as `module.` and containers such as `state_dict` are taken off. Raises UserError, naming the file, if
    a tensor of the network is missing or of another shape, or one is left over.
    """
    try:
        source, _ = read_tensors(path)
    except UserError as error:
        raise UserError(str(error).replace("arch.args.weights: ", "--checkpoint ")) from error
    heads = [tensor for name, tensor in source.items() if name.endswith(CLASSIFIER) and tensor.ndim == 2]
    outputs = len(heads[0]) if len(heads) == 1 else 2
    model = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=outputs)
    wanted = model.state_dict()
    keys, _ = backbone_keys(source, wanted, "auto", [], ARCHITECTURE)
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}  # files of before 2018 have none
    missing = sorted(set(wanted) - set(keys) - counters)
    unexpected = [keys[key] for key in keys if key not in wanted]
    other = [key for key in wanted if key in keys and source[keys[key]].shape != wanted[key].shape]
    if missing or unexpected or other:
        parts = [("missing", missing), ("unexpected", unexpected), ("of another shape", other)]
        said = "; ".join(f"{title}: {', '.join(names[:3])} ({len(names)} in all)" for title, names in parts if names)
        looks = network_of(keys)
        raise UserError(
            f"--checkpoint {path}: not a checkpoint of this project, nor a state dict of ResNet-18 with its classifier "
            f"({said})" + (f"; its keys look like those of a {looks}" if looks else "")
        )
    model.load_state_dict({key: source[keys[key]] if key in keys else wanted[key] for key in wanted}, strict=True)
    return model.eval()
