"""Fill in the middle of garments several times with the bundled model, and write a page that shows how sure it is.

python examples/inpaint.py OUT.html [IMAGES [DRAWS [CALLS]]]
"""

import sys
from pathlib import Path

import alphabar
from alphabar.report.restore_page import write_restore_page

given = [int(a) for a in sys.argv[2:]]
n, draws, calls = given + [8, 16, 30][len(given) :]
garments = alphabar.load("fashion_mnist", "test").pixels[:n]
found = alphabar.restore("bundled", garments, task="inpaint", mask="box", degrade=True, draws=draws, calls=calls)
write_restore_page(found, Path(sys.argv[1]))

for name, score in found.scores.items():
    print(f"{name}: {score}")
order = found.std.mean((1, 2, 3)).argsort()  # by the standard deviation of the draws
print(f"surest about image {order[0]}, least sure about image {order[-1]}; {found.record['nfe']:g} network calls a draw")

# draws of a photo of yours, whose white pixels in mask.png are missing:
# alphabar.restore("runs/photos", "photo.png", task="inpaint", mask="mask.png", draws=16, out="restored")
