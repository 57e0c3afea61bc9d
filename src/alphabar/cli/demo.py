"""`alphabar demo`."""

from typing import Annotated

from cyclopts import Parameter

from alphabar.verbs.options import DemoOptions


def demo(*, options: Annotated[DemoOptions, Parameter(name="*")] = DemoOptions()) -> None:
    """Sample, score and compare garments from the bundled model, without a download; about three minutes on 2 cores.

    ```
    alphabar demo
    alphabar demo --out /tmp/demo --minutes 1
    ```
    """
    from alphabar.verbs.demo import demo

    demo(options=options)
