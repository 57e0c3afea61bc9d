"""Options that several commands share."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Parameter

from alphabar.core.bounds import Bounds, Checked

T = TypeVar("T")
Ends = Annotated[tuple[float, float], Bounds(-1e9, 1e9)]
Flat = Annotated[T, Parameter(name="*")]  # a dataclass whose fields are options of the command
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON instead of a table.")]
Flag = Annotated[bool, Parameter(negative="")]  # an option that is only ever switched on


@Parameter(name="*")
@dataclass(frozen=True)
class Reading(Checked):
    """How images are read, as `alphabar.load` takes it."""

    value_range: Annotated[Ends | None, Parameter(name="--range", allow_leading_hyphen=True)] = None
    """LOW HIGH: the values at the bottom and the top of the scale. None: 0 255, 0 65535, or 0 1 for floats."""
    alpha: str = "refuse"
    """Transparent images: refuse, keep (one more channel), or the background: white, black, R,G,B."""
    skip_broken: Flag = False
    """Leave damaged images out, and name them."""
    axes: Literal["nhwc", "nchw"] | None = None
    """Order of the axes, for arrays whose shape leaves it open."""
    size: str | None = None
    """One size for images of several: a side, or HEIGHTxWIDTH (height first), as 64 or 48x64."""
    fit: Literal["crop", "pad", "stretch"] | None = None
    """The way to that size: crop keeps the middle (the default), pad adds a background, stretch keeps no ratio."""

    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        return {k: v for k, v in asdict(self).items() if v != getattr(Reading(), k)}
