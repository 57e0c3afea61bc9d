"""Ray, for what spreads over machines: found or asked for by name, and left as it was found."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def import_ray(what: str) -> Any:
    """The package. Raises ImportError, saying what needs it and what to type, where it is not installed."""
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns of a change to come
        import ray
    except ImportError as error:
        raise ImportError(f"{what} over machines needs Ray: pip install 'alphabar[ray]', or leave --ray out") from error
    return ray


@contextmanager
def joined(ray: Any, address: str) -> Iterator[None]:
    """A cluster: "local" starts one node here; one that runs already is used, and not ended."""
    own = not ray.is_initialized()
    if own and address == "local":
        ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    elif own:
        ray.init(address=address, log_to_driver=False)
    try:
        yield
    finally:
        if own:
            ray.shutdown()
