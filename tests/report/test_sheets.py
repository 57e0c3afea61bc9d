"""Same-seed sheets: the images cut out of the files, each in its column."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.report import sheets
from alphabar.report.sheets import Cell, nearest, side_by_side, spread
from alphabar.results.runs import load_run
from tests.fixtures.runs import MakeRun, add_sheets, drawn


def picture(cell: Cell | None) -> np.ndarray:
    assert cell is not None and cell.picture is not None
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(cell.picture.uri.split(",")[1]))))
    assert (cell.picture.height, cell.picture.width) == found.shape[:2]
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_cells_hold_the_sampled_images(make_run: MakeRun, channels: int) -> None:
    shape = (12, 10, channels)
    runs = [make_run("a", previews=0), make_run("b", previews=0)]
    for run in runs:
        add_sheets(run, [640, 1_280, 1_920], shape)
    found = side_by_side([load_run(run) for run in runs])
    assert found is not None
    assert (found.columns, found.of, found.left_out, found.shown) == ([640, 1_280, 1_920], 6, 0, 9)
    for row in found.rows:
        for seen, cell in zip(found.columns, row, strict=True):
            there = picture(cell)
            for k in range(9):
                top, left = k // 3 * 13, k % 3 * 11
                np.testing.assert_array_equal(there[top : top + 12, left : left + 10, :channels], drawn(seen, 16, shape)[k])
    assert found.notes == ["Image k of every sheet starts from the same noise (seed 0), in all runs and at all checkpoints."]


def test_a_sheet_of_an_older_release_is_cut_by_its_recipe(make_run: MakeRun) -> None:
    run = make_run("a", previews=0, tokens=("--watch.preview-n", "16"))
    add_sheets(run, [640])
    events = run / "events.jsonl"
    rows = [json.loads(line) for line in events.read_text().splitlines()]
    events.write_text("".join(json.dumps({k: v for k, v in row.items() if k not in ("sheet", "n")}) + "\n" for row in rows))
    found = side_by_side([load_run(run)])
    assert found is not None
    np.testing.assert_array_equal(picture(found.rows[0][0])[13:25, 22:32, 0], drawn(640)[5][..., 0])


def test_a_sheet_of_unknown_layout_is_shown_whole(make_run: MakeRun) -> None:
    found = side_by_side([load_run(make_run(previews=2))])  # 64 x 64 pixels that are no sheet of 64 images
    assert found is not None
    assert picture(found.rows[0][0]).shape == (64, 64)
    assert "Some sheets do not record where their images lie and are shown whole." in found.notes
    assert "These runs do not record the seed of their sheets." in found.notes


def test_columns_are_spread_and_the_sheets_left_out_are_counted(make_run: MakeRun, tmp_path: Path) -> None:
    assert spread(range(50), 8) == [0, 7, 14, 21, 28, 35, 42, 49]
    assert spread([3, 5], 8) == [3, 5]
    short = [(10, tmp_path / "a"), (20, tmp_path / "b"), (29, tmp_path / "c")]
    assert nearest(short, [10, 30, 90]) == [short[0], short[2], None]
    runs = [make_run("a", previews=0), make_run("b", previews=0), make_run("c", previews=0)]
    add_sheets(runs[0], [100 * (k + 1) for k in range(20)])
    add_sheets(runs[1], [100 * (k + 1) for k in range(10)])
    found = side_by_side([load_run(run) for run in runs])
    assert found is not None
    assert len(found.columns) == 8 and (found.columns[0], found.columns[-1]) == (100, 2_000)
    assert found.of == 30
    assert found.left_out == 30 - sum(cell is not None for row in found.rows for cell in row)
    assert found.rows[1][-1] is None and found.rows[2] == [None] * 8
    assert side_by_side([load_run(runs[2])]) is None


def test_the_budget_is_kept_by_smaller_images_then_fewer_columns(make_run: MakeRun) -> None:
    run = make_run("a", previews=0)
    g = np.random.default_rng(0)
    add_sheets(run, [640 * (k + 1) for k in range(8)], (80, 80, 3))
    for path in sorted((run / "samples").glob("*.png")):  # noise, which a PNG cannot make smaller
        Image.fromarray(g.integers(0, 256, np.asarray(Image.open(path)).shape, dtype=np.uint8)).save(path)
    whole = side_by_side([load_run(run)])
    assert whole is not None and len(whole.columns) == 8 and picture(whole.rows[0][0]).shape[:2] == (242, 242)
    small = side_by_side([load_run(run)], budget=300_000)
    assert small is not None and len(small.columns) == 8 and picture(small.rows[0][0]).shape[0] < 242
    assert any("at most 32 pixels wide and high" in note for note in small.notes)
    few = side_by_side([load_run(run)], budget=15_000)
    assert few is not None and len(few.columns) < 8
    assert sum(len(base64.b64decode(c.picture.uri.split(",")[1])) for row in few.rows for c in row if c and c.picture) <= 15_000
    assert few.left_out == 8 - len(few.columns)


def test_different_seeds_are_noted(make_run: MakeRun) -> None:
    runs = [make_run("a", previews=0), make_run("b", previews=0)]
    for run in runs:
        add_sheets(run, [640])
    events = runs[1] / "events.jsonl"
    events.write_text(events.read_text().replace('"seed": 0', '"seed": 3').replace('"steps": 25, "seed"', '"steps": 9, "seed"'))
    found = side_by_side([load_run(run) for run in runs])
    assert found is not None
    assert found.notes[0].startswith("The sheets differ in seed")
    assert found.notes[1] == "They were sampled with different numbers of calls: 25, 9."


def test_a_damaged_sheet_does_not_hide_the_others(make_run: MakeRun) -> None:
    run = make_run("a", previews=0)
    add_sheets(run, [640, 1_280])
    path = run / "samples" / "preview_0000000640.png"
    path.write_bytes(path.read_bytes()[:100])
    found = side_by_side([load_run(run)])
    assert found is not None
    first, second = found.rows[0]
    assert first is not None and first.picture is None and "preview_0000000640.png cannot be read" in str(first.fault)
    picture(second)
    assert sheets.SIDE == 3
