"""Import first where torchvision was built for another torch: its compiled operators are missing, its Python parts work.

torch-fidelity and clean-fid import torchvision, but need none of its operators for distances between given features.
"""

import sys

import torch

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    stubs = torch.library.Library("torchvision", "FRAGMENT")  # kept: the operators go when it goes
    for operator in ("nms", "qnms"):
        stubs.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401
