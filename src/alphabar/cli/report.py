"""`alphabar report`."""

from pathlib import Path


def report(*runs: Path, out: Path = Path("report.html"), sweep: tuple[Path, ...] = (), trajectory: bool | None = None) -> None:
    """Write one page about one or several runs: what differs, curves, scores, same-seed images, verdicts, the way from noise.

    ```
    alphabar report runs/garments --out garments.html
    alphabar report runs/a runs/b --out compared.html
    ```

    The page is one file that works offline. It shows what is in the run folders, sweeps and comparisons included, and the
    verdict of the experiment that trained them.

    Args:
        runs: run folders, or the folder of an experiment for all its trainings.
        out: the page to write.
        sweep: folders of sweeps that are not in the runs.
        trajectory: sample the way from noise to image for runs that kept none. Left out: only where that takes seconds;
            --no-trajectory: never.
    """
    from alphabar.report.report_page import write_report

    if not runs:
        raise ValueError("name at least one run, as in: alphabar report runs/garments")
    print(write_report(list(runs), out, sweeps=sweep, draw=trajectory))
