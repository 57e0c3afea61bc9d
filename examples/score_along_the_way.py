"""FID of the estimate of the clean image, x0_hat, at every step of a sampler: a plot of FID against sigma.

python examples/score_along_the_way.py PLOT.png [N [STEPS]]
"""

import sys

from matplotlib.figure import Figure

import alphabar

n, steps = (int(a) for a in (*sys.argv[2:], 640, 10)[:2])
samples = alphabar.sample(alphabar.load_model("bundled"), n, steps=steps, keep_x0=True)
evaluator = alphabar.ImageEval("bundled", "fashion_mnist:test")
scores = evaluator.trajectory(samples.x0 or [], samples.record, metrics=("fid",))
levels = samples.record["grid"][:-1]
figure = Figure(figsize=(7, 4), layout="constrained")
axes = figure.subplots()
axes.loglog(levels, [s.value for (s,) in scores], "o-", label="x0_hat at that level")
axes.axhline(scores[0][0].floor, linestyle=":", label="real images (the floor)")
axes.set(xlabel="sigma (noise still in the image)", ylabel=f"FID, {n} images")
axes.invert_xaxis()
axes.legend()
figure.savefig(sys.argv[1])
for level, (score,) in zip(levels, scores, strict=True):
    print(f"sigma {level:8.3f}  {score}")
