"""`alphabar samplers`."""

from alphabar.cli import show


def samplers(*, as_json: show.Json = False) -> None:
    """List the samplers: the purpose of each, its order, its network calls for ten steps, and its options.

    ```
    alphabar samplers
    alphabar samplers --json
    ```
    """
    from alphabar.sampling.catalogue import SAMPLERS

    options = {e.name: [k for k in e.options if k != "data_range"] for e in SAMPLERS.values()}
    if as_json:
        show.as_json_line([
            {"name": e.name, "order": e.order, "stochastic": e.stochastic, "calls_of_10_steps": e.calls(10),
             "options": options[e.name], "summary": e.summary} for e in SAMPLERS.values()
        ])  # fmt: skip
        return
    show.table(
        ("sampler", "order", "calls of 10 steps", "options", "purpose"),
        [(e.name, str(e.order), str(e.calls(10)), ", ".join(options[e.name]), e.summary) for e in SAMPLERS.values()],
        "samplers; and tuned, once `alphabar tune` has fitted one to the model",
    )
