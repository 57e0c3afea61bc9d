"""Options of `alphabar app`. Imports neither torch nor gradio."""

from dataclasses import dataclass
from typing import Annotated

from alphabar.core.bounds import Bounds, Checked


@dataclass(frozen=True)
class AppOptions(Checked):
    """Where the page is served, and what its scores are measured against."""

    port: Annotated[int, Bounds(1, 65_535)] = 7860
    """Port to listen at."""
    host: str = "127.0.0.1"
    """127.0.0.1 is this machine alone; 0.0.0.0 lets everyone use the page who reaches this machine over the network."""
    against: str | None = None
    """SET[:SPLIT] of real images for scores; fashion_mnist:test for the bundled run if left out."""
    extractor: str | None = None
    """Extractor of the scores: bundled, a path, inception:original or inception:clean; if left out, that of the run's recipe."""
