"""A custom hook that stops a training as soon as the loss is low enough.

python examples/custom_hook.py RUN [IMAGES]
"""

import sys

import alphabar
from alphabar.training.hooks import Hook, Training


class StopWhenGood(Hook):
    every = 256  # images

    def __init__(self, loss: float) -> None:
        self.loss = loss

    def on_interval(self, training: Training) -> None:
        print(f"{training.images} images: loss {training.loss:.3f}")
        if training.loss < self.loss:
            raise SystemExit(f"loss {training.loss:.3f} is below {self.loss}; the last checkpoint is stored")


if __name__ == "__main__":
    out, images = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "100000"
    recipe = alphabar.resolve("garments", ["--train.images", images, "--train.log_every", "256", "--watch.score_every", "0"])
    alphabar.train(recipe, out, hooks=[StopWhenGood(0.01)])
