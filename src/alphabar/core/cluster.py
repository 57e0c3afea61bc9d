"""Ray, for work that is spread over machines."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def import_ray(what: str) -> Any:
    """The package ray. `what` names the work that needs it in the ImportError that says how to install it."""
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # sends no usage statistics
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about a future default
        import ray
    except ImportError as error:
        raise ImportError(f"{what} over machines needs Ray: pip install 'alphabar[ray]', or leave --ray out") from error
    return ray


@contextmanager
def joined(ray: Any, address: str) -> Iterator[None]:
    """Connects to a cluster. "local" starts one node on this machine; a connection that exists already is used and kept."""
    connect = not ray.is_initialized()
    if connect and address == "local":
        ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    elif connect:
        ray.init(address=address, log_to_driver=False)
    try:
        yield
    finally:
        if connect:
            ray.shutdown()
