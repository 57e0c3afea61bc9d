"""Files of weights: ordinary ones are read as torch.load reads them; hostile and damaged ones end in one clear line."""

import collections
import hashlib
import io
import os
import pickle
import struct
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from alphabar.core.weights import read_weights
from alphabar.features.read_pth import fetch, sha256_of

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def state() -> dict[str, Tensor]:
    """One of every kind of number, and every kind of layout that a state dict may have."""
    g = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=g)
    out = {f"kind.{t}": (base * 40).to(t) for t in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32)}
    out |= {f"kind.{t}": (base.abs() * 40).to(t) for t in (torch.int16, torch.int8, torch.uint8)}
    out |= {"bool": base > 0, "turned": base.T, "cut": base[1:, 2:4], "scalar": torch.tensor(3.5), "none": torch.zeros(0, 3)}
    return out | {"last": torch.randn(2, 3, 4, 4, generator=g).contiguous(memory_format=torch.channels_last), "base": base}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert ours[name].stride() == tensor.stride()
        assert torch.equal(ours[name], tensor), name


@FORMATS
def test_reads_what_torch_reads(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "w.pth"
    torch.save(state(), path, _use_new_zipfile_serialization=zipped)
    theirs = torch.load(path, weights_only=True)
    ours = read_weights(path)
    same(ours, theirs)
    ours["base"][1, 2] = 7.0  # tensors that shared memory share it again
    assert ours["cut"][0, 0] == 7.0
    assert ours["turned"][2, 1] == 7.0


@FORMATS
def test_reads_a_networks_state_with_its_metadata(tmp_path: Path, zipped: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))  # its dict has the attribute _metadata
    rest = {"epoch": 3, "lr": 0.1, "note": None, "sizes": [1, 2], "done": True}
    options: dict[str, Any] = {"_use_new_zipfile_serialization": zipped}
    torch.save(network.state_dict(), tmp_path / "a.pth", **options)
    torch.save(collections.OrderedDict(network.named_parameters()), tmp_path / "b.pth", **options)
    torch.save({"state_dict": network.state_dict(), **rest}, tmp_path / "c.pth", **options)
    whole = dict(network.state_dict())
    same(read_weights(tmp_path / "a.pth"), whole)
    same(read_weights(tmp_path / "b.pth"), {k: v.detach() for k, v in network.named_parameters()})
    same(read_weights(tmp_path / "c.pth", "state_dict"), whole)
    with pytest.raises(ValueError, match=r"'epoch'.*name the dict of tensors among them with part="):
        read_weights(tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"no dict under part='model', but 'state_dict', 'epoch'"):
        read_weights(tmp_path / "c.pth", "model")


def test_reads_safetensors(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "w.safetensors")
    same(dict(sorted(read_weights(tmp_path / "w.safetensors").items())), tensors)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"cut\.safetensors is not a safetensors file, or is truncated"):
        read_weights(tmp_path / "cut.safetensors")


def test_files_of_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        read_weights(tmp_path / "nothing.pth")
    kinds = {
        "text": b"hello, this is text",
        "empty": b"",
        "pickle": pickle.dumps({"a": 1}, protocol=2),
        "html": b"<html>not found</html>",
    }
    for name, data in kinds.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name} (is neither safetensors nor|was not read: it is damaged or no .pth)"):
            read_weights(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ValueError, match=r"other\.zip was not read: it is damaged or no \.pth"):
        read_weights(tmp_path / "other.zip")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list, not tensors by name"):
        read_weights(tmp_path / "list.pth")


class Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@FORMATS
def test_programs_are_refused_by_name(tmp_path: Path, zipped: bool) -> None:
    sign = tmp_path / "sign"
    for function, arguments, named in (
        (os.system, (f"touch {sign}",), r"(posix|nt)\.system"),
        (eval, (f"open({str(sign)!r}, 'w')",), "eval"),
        (torch.load, ("x",), r"torch\.serialization\.load"),
    ):
        path = tmp_path / "evil.pth"
        torch.save({"a": torch.zeros(2), "b": Evil(function, *arguments)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=f"^[^\n]*evil.pth was not read: it asks for {named}, [^\n]*$"):
            read_weights(path)
    assert not sign.exists()
    torch.save(nn.Linear(2, 2), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_weights(path)


class Part:
    """A storage that a crafted file refers to."""

    def __init__(self, numel: Any, key: Any = "0", kind: Any = torch.FloatStorage) -> None:
        self.identity = ("storage", kind, key, "cpu", numel)


def view(part: Part, offset: Any, size: Any, stride: Any) -> Evil:
    return Evil(torch._utils._rebuild_tensor_v2, part, offset, size, stride, False, collections.OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> Any:
        return obj.identity if isinstance(obj, Part) else None


def crafted(path: Path, content: Any, numbers: int, compression: int = zipfile.ZIP_STORED) -> Path:
    """A file of the zip format whose storage "0" really has so many floats."""
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(content)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("w/data.pkl", buffer.getvalue())
        archive.writestr("w/version", "3\n")
        archive.writestr("w/data/0", np.arange(numbers, dtype="<f4").tobytes())
    return path


def test_the_crafting_itself_is_sound(tmp_path: Path) -> None:
    path = crafted(tmp_path / "w.pth", {"a": view(Part(12), 2, (2, 3), (5, 1))}, 12)
    same(read_weights(path), {"a": torch.arange(12.0).as_strided((2, 3), (5, 1), 2)})


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (13,), (1,)),
        (8, (5,), (1,)),
        (0, (3, 3), (6, 1)),
        (2**40, (1,), (1,)),
        (0, (2**62,), (1,)),
        (0, (2**62, 2**62), (2**62, 1)),
        (0, (2**70,), (1,)),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (11, (3,), (-1,)),
        (0, (2.0,), (1,)),
        (0, (2, 2), (1,)),
        (0, (10**9,), (0,)),  # one number, four gigabytes
    ],
)
def test_tensors_that_exceed_their_storage_are_refused(tmp_path: Path, offset: Any, size: Any, stride: Any) -> None:
    path = crafted(tmp_path / "w.pth", {"a": view(Part(12), offset, size, stride)}, 12)
    with pytest.raises(ValueError, match=r"^[^\n]*w\.pth (was not read: [^\n]*|has several elements in one place[^\n]*)$"):
        read_weights(path)


@pytest.mark.parametrize(
    "part",
    [
        Part(10**12),
        Part(13),
        Part(11),
        Part(-12),
        Part(2**63),
        Part("12"),
        Part(12, key="1"),
        Part(12, key="../data.pkl"),
        Part(12, kind=torch.DoubleStorage),
        Part(12, kind="FloatStorage"),
    ],
    ids=lambda part: str(part.identity),
)
def test_storages_that_differ_from_their_records_are_refused(tmp_path: Path, part: Part) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*w\.pth was not read: [^\n]*$"):
        read_weights(crafted(tmp_path / "w.pth", {"a": view(part, 0, (2,), (1,))}, 12))


def test_compressed_and_damaged_archives_are_refused(tmp_path: Path) -> None:
    content = {"a": view(Part(10**6), 0, (10**6,), (1,))}
    bomb = crafted(tmp_path / "bomb.pth", content, 10**6, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"bomb\.pth was not read: its entry 'w/data\.pkl' is compressed"):
        read_weights(bomb)
    data = bytearray(crafted(tmp_path / "flip.pth", {"a": view(Part(99), 0, (99,), (1,))}, 99).read_bytes())
    data[data.index(struct.pack("<3f", 50, 51, 52))] ^= 1  # one bit of the numbers
    (tmp_path / "flip.pth").write_bytes(data)
    with pytest.raises(ValueError, match=r"flip\.pth was not read: its entry 'w/data/0' has a wrong checksum"):
        read_weights(tmp_path / "flip.pth")


def test_crafted_pickles_are_refused(tmp_path: Path) -> None:
    pickles = [
        b"\x80\x02.", b"\x80\x02}", b"\x80\x02ctorch", b"\x80\x02u.", b"\x80\x02}h\x07.", b"\x80\x02cos\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.", b"\x80\x02(S'rm'\nios\nsystem\n.", b"\x80\x02\x82\x01.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a string of 2^63 bytes
        b"\x80\x02})" + b"\x85" * 10**5 + b"K\x01s.",  # 100,000 nested tuples as a key
    ]  # fmt: skip
    for number, data in enumerate(pickles):
        path = tmp_path / f"{number}.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w/data.pkl", data)
            archive.writestr("w/version", "3\n")
        with pytest.raises(ValueError, match=rf"^[^\n]*{number}\.pth [^\n]*$"):
            read_weights(path)


@FORMATS
def test_truncated_and_damaged_files_raise_nothing_but_value_error(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.arange(20.0), "b": torch.ones(3, dtype=torch.int64)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"w\.pth"):
            read_weights(path)
    rng = np.random.default_rng(0)
    read = 0
    for _ in range(400):
        data = bytearray(whole)
        for at in rng.integers(0, len(whole), rng.integers(1, 4)):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            found = read_weights(path)
        except ValueError:
            continue
        read += 1
        assert sum(t.numel() for t in found.values()) <= 23 * 8
    assert read < 400


# Downloads, from a server on this machine


@contextmanager
def served(data: bytes, claimed: int | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/w.pth":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data) if claimed is None else claimed))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/w.pth"
        finally:
            server.shutdown()
            thread.join()


def test_downloads_are_checked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = np.random.default_rng(0).bytes(3_000_000)
    sha = hashlib.sha256(data).hexdigest()
    place = tmp_path / "deep" / "w.pth"
    with served(data) as url:
        assert fetch(url, place, sha.upper()) == place
        assert place.read_bytes() == data
        assert sha256_of(place) == sha
        assert "100%" in capfd.readouterr().err  # the progress bar
        with pytest.raises(ValueError, match=rf"did not give the published file.*{'0' * 64}.*{sha}.*curl -L -o w\.pth http"):
            fetch(url, tmp_path / "other" / "w.pth", "0" * 64, show=False)
        with pytest.raises(OSError, match=r"404.*curl -L -o w\.pth http"):
            fetch(url + "x", tmp_path / "other" / "w.pth", sha, show=False)
    with served(data[:1000], claimed=len(data)) as url, pytest.raises(ValueError, match="or not all of it"):
        fetch(url, tmp_path / "other" / "w.pth", sha, show=False)
    with pytest.raises(OSError, match=r"cannot be downloaded.*put it at"):  # nobody listens there now
        fetch(url, place, sha, show=False)
    assert place.read_bytes() == data  # the earlier file is kept
    assert list((tmp_path / "other").iterdir()) == []
