"""What each tracker has kept, read back with its own reader: numbers, configuration, pictures pixel for pixel, artifacts."""

import json
import os
import re
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from alphabar.core.run import Run
from alphabar.tracking.outbox import read_messages, sync

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # raised inside the trackers
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def recorded(run: Path) -> dict[tuple[str, int], float]:
    return {(key, m.images): value for m in read_messages(Run(run)) for key, value in m.values.items()}


def sheet(run: Path, images: int) -> Any:
    return np.asarray(Image.open(run / "samples" / f"preview_{images:010d}.png").convert("RGB"))


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is written inside the test's folder, and no server is contacted."""
    for name, value in {
        "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_DATA_DIR": tmp_path, "WANDB_CACHE_DIR": tmp_path,
        "WANDB_CONFIG_DIR": tmp_path, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1",
        "TRACKIO_DIR": tmp_path / "trackio", "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))


# ---- Weights & Biases


def wandb_records(path: Path) -> list[Any]:
    """All records of a finished offline run. W&B's process may write the last ones a little later."""
    for _ in range(300):
        found = list(_wandb_records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.1)
    pytest.fail(f"{path} does not end")


def _wandb_records(path: Path) -> Iterator[Any]:
    """Parsed with W&B's protobuf from blocks of 32 KiB with framed records, the format of LevelDB's log."""
    from wandb.proto import wandb_internal_pb2 as pb

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        crc, size, kind = struct.unpack("<IHB", data[at : at + 7])
        part = data[at + 7 : at + 7 + size]
        if len(part) < size:  # not written yet
            return
        assert zlib.crc32(bytes([kind]) + part) == crc
        at += 7 + size
        whole = part if kind in (1, 2) else whole + part  # 1: a whole record, 2 to 4: its first, middle and last part
        if kind in (1, 4):
            yield pb.Record.FromString(whole)


@pytest.mark.slow
def test_wandb(copy: Path) -> None:
    pytest.importorskip("wandb")
    found = sync(copy, ["wandb"])["wandb"]
    (folder,) = (copy / "tracking" / "wandb").glob("offline-run-*")
    assert found["where"] == f"offline; send it with: wandb sync '{folder}'"
    (file,) = folder.glob("run-*.wandb")
    history: dict[tuple[str, int], Any] = {}
    artifacts, configuration = [], {}
    for record in wandb_records(file):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            history |= {(k, items["_step"]): v for k, v in items.items() if not k.startswith("_")}
        elif kind == "config":
            configuration |= {"/".join(u.nested_key) or u.key: json.loads(u.value_json) for u in record.config.update}
        elif kind == "artifact":
            artifacts.append(record.artifact)
    wanted = recorded(copy)
    assert {k: v for k, v in history.items() if not k[0].startswith("samples/")} == pytest.approx(wanted)
    assert configuration["train.batch"] == 32 and configuration["data_seen.set"].endswith("squares")
    for images in (128, 256):
        (picture,) = history["samples/filenames", images]
        assert np.array_equal(np.asarray(Image.open(folder / "files" / picture).convert("RGB")), sheet(copy, images))
    by_type = {kind: [a for a in artifacts if a.type == kind] for kind in ("dataset", "model", "samples")}
    data = json.loads((copy / "data.json").read_text())["fingerprint"]
    assert by_type["dataset"][0].name == f"data-{data}"
    assert {alias for a in by_type["model"] for alias in a.aliases} >= {"best", "latest"}
    for a in by_type["model"]:  # lineage: from the data to the score
        about = json.loads(a.metadata)
        assert about["data"] == data and about["score"]["score/fid"] == 4.5 and about["score"]["images"] <= about["images"]
        assert {c.path for c in a.manifest.contents} == {"ema.safetensors", "recipe.toml"}
    last = [a for a in by_type["model"] if "latest" in a.aliases][-1]
    weights = next(c for c in last.manifest.contents if c.path == "ema.safetensors")
    assert Path(weights.local_path).read_bytes() == (copy / "checkpoints" / "last" / "ema.safetensors").read_bytes()
    assert json.loads(by_type["samples"][0].metadata)["of"] == last.name


@pytest.mark.slow
def test_a_resumed_wandb_run_is_the_same_run(copy: Path) -> None:
    pytest.importorskip("wandb")
    events = Run(copy).events
    lines = events.read_text().splitlines()
    half = next(k for k, line in enumerate(lines) if json.loads(line).get("images", 0) > 128)
    events.write_text("\n".join(lines[:half]) + "\n")
    sync(copy, ["wandb"])
    events.write_text("\n".join(lines) + "\n")
    time.sleep(1.1)  # W&B names its folders by the second
    sync(copy, ["wandb"])
    folders = sorted((copy / "tracking" / "wandb").glob("offline-run-*"))
    ids, steps = set(), []
    for folder in folders:
        (file,) = folder.glob("run-*.wandb")
        for record in wandb_records(file):
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            if record.WhichOneof("record_type") == "history":
                steps += [json.loads(i.value_json) for i in record.history.item if (i.key or i.nested_key[0]) == "_step"]
    assert len(folders) == 2 and len(ids) == 1
    assert steps == sorted(set(steps)) == [64, 128, 192, 256]  # steps only increase


@pytest.mark.slow(2)
def test_without_a_key_wandb_is_offline(copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sync(copy, ["wandb"])["wandb"]["where"].startswith("offline; send it with: wandb sync")


# ---- TensorBoard


@pytest.mark.slow(2)
def test_tensorboard(copy: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sync(copy, ["tensorboard"])
    accumulator = EventAccumulator(str(copy / "tracking" / "tensorboard"), {"scalars": 0, "images": 0})
    accumulator.Reload()
    received = {(key, e.step): e.value for key in accumulator.Tags()["scalars"] for e in accumulator.Scalars(key)}
    assert received == pytest.approx(recorded(copy), rel=1e-6)
    for e in accumulator.Images("samples"):
        from io import BytesIO

        assert np.array_equal(np.asarray(Image.open(BytesIO(e.encoded_image_string)).convert("RGB")), sheet(copy, e.step))
    assert [e.step for e in accumulator.Images("samples")] == [128, 256]


# ---- MLflow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking server on the loopback interface, with SQLite."""
    pytest.importorskip("mlflow")
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/m.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    env = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=1) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        else:
            pytest.fail("the server did not start")
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait()


@pytest.mark.slow
def test_mlflow(copy: Path, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    lines = (events := Run(copy).events).read_text().splitlines()
    half = next(k for k, line in enumerate(lines) if json.loads(line).get("images", 0) > 128)
    events.write_text("\n".join(lines[:half]) + "\n")
    first = sync(copy, ["mlflow"])
    events.write_text("\n".join(lines) + "\n")
    assert sync(copy, ["mlflow"])["mlflow"]["where"] == first["mlflow"]["where"]  # the same tracked run
    run_id = json.loads((copy / "tracking" / "mlflow.json").read_text())["tracked_run"]["run_id"]
    client = mlflow.MlflowClient(server)
    found = client.get_run(run_id)
    assert found.info.status == "FINISHED" and found.info.run_name == copy.name
    assert found.data.params["train.batch"] == "32"
    wanted = recorded(copy)
    received = [(key, m.step, m.value) for key in found.data.metrics for m in client.get_metric_history(run_id, key)]
    assert len(received) == len(wanted) and {(k, s): v for k, s, v in received} == pytest.approx(wanted)
    pictures = [a.path for a in client.list_artifacts(run_id, "images") if a.path.endswith(".png")]
    assert pictures
    for images in (128, 256):
        (path,) = [p for p in pictures if re.search(rf"step\W{images}\W", p)]
        own = client.download_artifacts(run_id, path, str(tmp_path))
        assert np.array_equal(np.asarray(Image.open(own).convert("RGB")), sheet(copy, images))
    weights = client.download_artifacts(run_id, "model/latest/ema.safetensors", str(tmp_path))
    assert Path(weights).read_bytes() == (copy / "checkpoints" / "last" / "ema.safetensors").read_bytes()
    assert {a.path for a in client.list_artifacts(run_id, "model")} == {"model/best", "model/latest"}
    about = json.loads(Path(client.download_artifacts(run_id, "model/latest/about.json", str(tmp_path))).read_text())
    assert about["score"]["score/fid"] == 4.5 and about["data"] == json.loads((copy / "data.json").read_text())["fingerprint"]


class Refusing(BaseHTTPRequestHandler):
    """A server that keeps what it is sent, and allows nothing."""

    received: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.received.append(self.path.encode() + self.rfile.read(int(self.headers.get("Content-Length", 0))))
        self.send_response(401)
        self.end_headers()
        self.wfile.write(f"{self.headers.get('Authorization')} may not log in\n".encode())

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def refusing() -> Iterator[str]:
    Refusing.received.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow(40)
@pytest.mark.parametrize("which", ["server", "refusing"])
def test_the_password_of_mlflow_is_never_printed(copy: Path, which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A real process, with the password in the address: of a server that takes the record, and of one that refuses it."""
    address = request.getfixturevalue(which).replace("http://", "http://anna:hunter22-geheim@")
    env = os.environ | {"MLFLOW_TRACKING_URI": address, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "alphabar", "sync", str(copy), "--to", "mlflow"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, cwd=tmp_path)
    printed = done.stdout + done.stderr
    assert done.returncode == (0 if which == "server" else 2), printed
    assert "geheim" not in printed and "Traceback" not in printed
    assert b64encode(b"anna:hunter22-geheim").decode() not in printed
    kept = b"".join(p.read_bytes() for p in copy.rglob("*") if p.is_file())
    assert b"geheim" not in kept
    if which == "refusing":
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("alphabar: ")]
        assert "mlflow does not respond" in line and "nothing is lost" in line
        sent = b"".join(Refusing.received)
        assert sent and socket.gethostname().encode() not in sent and str(tmp_path).encode() not in sent


# ---- trackio


@pytest.mark.slow
def test_trackio(copy: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    code = f"from alphabar.tracking.outbox import sync; sync({str(copy)!r}, ['trackio'])"  # reads TRACKIO_DIR at import
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as db:
        rows = [(step, json.loads(metrics)) for step, metrics in db.execute("select step, metrics from metrics")]
    received = {(k, step): v for step, values in rows for k, v in values.items() if isinstance(v, int | float)}
    assert received == pytest.approx(recorded(copy))
    pictures = {step: v for step, values in rows for k, v in values.items() if k == "samples"}
    assert sorted(pictures) == [128, 256]
    for images, picture in pictures.items():
        (file,) = (tmp_path / "trackio").rglob(Path(picture["file_path"]).name)
        assert np.array_equal(np.asarray(Image.open(file).convert("RGB")), sheet(copy, images))
