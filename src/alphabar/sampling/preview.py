"""A sheet of samples from the same seeds, again and again while a model trains."""

from alphabar.sampling.draw import every_class, sample
from alphabar.training.hooks import Hook, Training


class Preview(Hook):
    """Writes samples/preview_IMAGES.png into the run folder every `every` images: n images by DDIM in `steps` calls,
    of all classes in turns where the model knows some."""

    def __init__(self, every: int, n: int = 64, steps: int = 25, seed: int = 0) -> None:
        self.every, self.n, self.steps, self.seed = every, n, steps, seed

    def on_interval(self, training: Training) -> None:
        samples = sample(
            training.ema, self.n, steps=self.steps, seed=self.seed, classes=every_class(training.ema), progress=False
        )
        folder = training.run.samples
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"preview_{training.images:010d}.png"
        samples.sheet(scale=2).save(path)
        training.report("preview", path=str(path.relative_to(training.run.path)), steps=self.steps, seed=self.seed)
