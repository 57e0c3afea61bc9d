"""Draw images from the bundled model, write them with a contact sheet, and score them.

python examples/sample_and_score.py OUT.npz [N [STEPS]]
"""

import sys

import alphabar

n, steps = (int(a) for a in (*sys.argv[2:], 640, 10)[:2])
model = alphabar.load_model("bundled")
samples = alphabar.sample(model, n, sampler="ddim", steps=steps, eta=0.0, seed=0)
samples.save(sys.argv[1])
samples.sheet(scale=2).save(sys.argv[1].removesuffix(".npz") + ".png")
print(f"{samples.record['nfe']:g} network calls per image, {samples.record['seconds_per_image']:.3f} s per image")

evaluator = alphabar.ImageEval("bundled", "fashion_mnist:test")
for score in evaluator.score(samples):
    print(score)
