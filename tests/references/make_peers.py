"""Writes peers.json: FID and KID of torch-fidelity and clean-fid on the features of features.py, with versions.

They need a separate environment, since they import torchvision:

    python3 -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 numpy "scipy<1.18" tqdm requests pillow packaging
    PEERS/bin/pip install --no-deps torchvision==0.28.0 torch-fidelity==0.4.0 clean-fid==0.1.35
    PEERS/bin/python tests/references/make_peers.py
"""

import json
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import tvshim  # noqa: F401  (first)
from cleanfid import fid as cleanfid
from features import CASES, features
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

warnings.simplefilter("ignore")


def main() -> None:
    found: dict[str, dict[str, float]] = {}
    for case in CASES:
        x, y = features(case)
        a, b = (fid_features_to_statistics(torch.from_numpy(f)) for f in (x, y))
        found[case] = {
            "torch-fidelity fid": fid_statistics_to_metric(a, b, False)["frechet_inception_distance"],
            "clean-fid fid": float(
                cleanfid.frechet_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))
            ),
        }
        if len(x) == len(y):  # one subset of all images is the full statistic
            found[case]["torch-fidelity kid"] = kid_features_to_metric(
                torch.from_numpy(x), torch.from_numpy(y), kid_subsets=1, kid_subset_size=len(x), verbose=False, rng_seed=0
            )["kernel_inception_distance_mean"]
            found[case]["clean-fid kid"] = cleanfid.kernel_distance(x, y, num_subsets=1, max_subset_size=len(x))
    packages = ("torch-fidelity", "clean-fid", "torch", "torchvision", "numpy", "scipy")
    record = {"versions": {name: version(name) for name in packages}, "values": found}
    Path(__file__).with_name("peers.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
