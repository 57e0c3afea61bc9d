"""Write a GIF of the way between two garments, through the noise that DDIM makes them from.

python examples/interpolate.py OUT.gif [A B [FRAMES [STEPS]]]

A and B are seeds, as 0 or 0:7 for image 7 of seed 0, or images, as "fashion_mnist:test[3]" or photo.png.
"""

import sys
from pathlib import Path

import alphabar
from alphabar.data.animation import save_animation

given = sys.argv[2:]
a, b, frames, steps = given + ["fashion_mnist:test[1]", "fashion_mnist:test[8]", "24", "50"][len(given) :]
model = alphabar.load_model("bundled")
way = alphabar.interpolate(model, a, b, n=int(frames), steps=int(steps), iterations=5)
save_animation([image[None] for image in way.images], Path(sys.argv[1]), back=True, scale=8)
print(f"{sys.argv[1]}: {frames} images from {a} to {b}, {way.record['nfe']:g} network calls each")
