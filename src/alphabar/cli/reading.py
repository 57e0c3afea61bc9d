"""The options of every command that reads images, as `alphabar.load` takes them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True)
class Reading:
    """How images are read."""

    value_range: Annotated[tuple[float, float] | None, Parameter(name="--range", allow_leading_hyphen=True)] = None
    """LOW HIGH: the values at the bottom and the top of the scale. None: 0 255, 0 65535, or 0 1 for floats."""
    alpha: str = "refuse"
    """Transparent images: refuse, keep (one more channel), or the background: white, black, R,G,B."""
    skip_broken: Annotated[bool, Parameter(negative="")] = False
    """Leave damaged images out, and name them."""
    axes: Literal["nhwc", "nchw"] | None = None
    """Order of the axes, for arrays whose shape leaves it open."""
