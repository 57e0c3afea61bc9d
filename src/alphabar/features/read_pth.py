"""Weights of foreign networks: safetensors, and PyTorch's .pth in both of its formats, read without unpickling.

A .pth is a pickle, that is, a program; unpickling one from elsewhere runs what its author liked. A state dict needs a few
of the pickle's instructions and a few names. These are interpreted here; any other is refused by its name, nothing in the
file is imported or called, and a tensor is made only when its bytes are really there.
"""

import hashlib
import io
import mmap
import os
import pickletools
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.core.progress import track

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # what a .pth of the format before PyTorch 1.6 begins with
_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_REBUILD, _PARAMETER, _DICT = (
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("collections", "OrderedDict"),
)
_LARGEST = 2**63  # of a size, a stride or an offset


def read_weights(path: str | os.PathLike[str], part: str | None = None) -> dict[str, Tensor]:
    """Name -> tensor (on the CPU) of a file of weights: .safetensors, or a .pth in the zip or the older format.

    part: the key of the weights in a .pth that holds more than one state dict ("state_dict", "model"); None: the file is
    one. Tensors that shared memory when they were saved share it here.

    Raises FileNotFoundError, and ValueError for a file that is damaged, is of another kind, or asks for anything but
    tensors in dicts.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}: give the path of a .safetensors or .pth file")
    with path.open("rb") as file:
        try:
            head = file.read(9)
            if head[:4] == b"PK\x03\x04":
                return _read_zip(file, part)
            if head[:1] == b"\x80":
                return _read_legacy(file, part)
            if head[8:] == b"{":
                return _safetensors(path, part)
            raise _RefusedError("it is neither safetensors nor a .pth: save the network's state_dict again, as one of these")
        except _RefusedError as error:
            raise ValueError(f"{path} was not read: {error}") from error
        except (ValueError, OverflowError, EOFError, OSError, struct.error, zipfile.BadZipFile, NotImplementedError) as error:
            raise ValueError(f"{path} is damaged ({error}): fetch or save it again") from error


class _RefusedError(ValueError):
    """Why a file is not read."""


def _safetensors(path: Path, part: str | None) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if part is not None:
        raise _RefusedError(f"safetensors has no parts, so leave part={part!r} out")
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(str(error)) from error


# What a file says, before any of it becomes a tensor


@dataclass(frozen=True)
class _Storage:
    """Memory that tensors look into: `numel` numbers."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class _View:
    """A tensor, as the file describes it."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    """A name that a pickle would import. Here it stays a name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


_Bytes = Callable[[_Storage], bytearray]  # the bytes of a storage, exactly as many as it says


def _state(content: Any, storage_bytes: _Bytes, part: str | None) -> dict[str, Tensor]:
    """The dict of tensors that a file holds, whole or under the key `part`."""
    if not isinstance(content, dict):
        raise _RefusedError(f"it holds {_kind(content)}, not a dict of tensors: save the network's state_dict()")
    if part is not None:
        if part not in content or not isinstance(content[part], dict):
            raise _RefusedError(f"it has no dict under part={part!r}, but {_names(content)}")
        content = content[part]
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, _View):
            hint = "; name the dict of tensors among them with part=" if part is None else ""
            raise _RefusedError(f"{name!r} in it is {_kind(value)}, not a tensor. It holds {_names(content)}{hint}")
    raw: dict[str, Tensor] = {}
    return {name: _tensor(name, view, raw, storage_bytes) for name, view in content.items()}


def _names(content: Mapping[Any, Any]) -> str:
    names = [repr(k) for k in content]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _kind(value: Any) -> str:
    return {_View: "a tensor", _Global: "a name", type(None): "None"}.get(type(value), f"of type {type(value).__name__}")


def _tensor(name: str, view: _View, raw: dict[str, Tensor], storage_bytes: _Bytes) -> Tensor:
    storage = view.storage
    _check_view(name, view)
    if storage.key not in raw:
        data = storage_bytes(storage)
        if storage.dtype == torch.bool:  # any other byte would be neither true nor false
            flat = torch.frombuffer(data, dtype=torch.uint8).ne(0) if data else torch.empty(0, dtype=torch.bool)
        else:
            flat = torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)
        raw[storage.key] = flat
    return torch.as_strided(raw[storage.key], view.size, view.stride, view.offset)


def _check_view(name: str, view: _View) -> None:
    """A view must lie inside its storage, and no two of its elements in one place: so it is never larger than its file."""
    shape = f"the tensor {name!r} of size {view.size}, strides {view.stride} and offset {view.offset}"
    last = 0  # of the places, counted from the offset, that the axes so far reach
    if 0 not in view.size:
        for stride, size in sorted(zip(view.stride, view.size, strict=True)):
            if size > 1 and stride <= last:
                raise _RefusedError(f"{shape} has several elements in one place: save it as .contiguous()")
            last += stride * (size - 1)
        if view.offset + last >= view.storage.numel:
            raise _RefusedError(f"{shape} goes beyond the {view.storage.numel} numbers that the file has for it")
    elif view.offset > view.storage.numel:
        raise _RefusedError(f"{shape} begins beyond the {view.storage.numel} numbers that the file has for it")


# The two ways in which torch.save has written


def _read_zip(file: io.BufferedReader, part: str | None) -> dict[str, Tensor]:
    """Since PyTorch 1.6: a zip archive of data.pkl, and of one entry, stored as it is, for each storage."""
    whole = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        if len(entries) != len(archive.infolist()):
            raise _RefusedError("two entries of the archive have one name")
        for info in entries.values():  # stored as they are, they cannot unpack to more than the file
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
                raise _RefusedError(f"its entry {info.filename!r} is compressed or encrypted, which torch.save never does")
        if sum(info.file_size for info in entries.values()) > whole:
            raise _RefusedError(f"its entries claim more bytes than the {whole} of the file")
        roots = [name.removesuffix("data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise _RefusedError("it is an archive of another kind: a .pth has one folder with one data.pkl")
        (root,) = roots
        if f"{root}constants.pkl" in entries:
            raise _RefusedError(
                "it is a TorchScript program, not a state dict: where you trust it, load it and save its state_dict()"
            )
        _check_order(archive.read(f"{root}byteorder").decode("ascii") if f"{root}byteorder" in entries else "little")
        content = _interpret(io.BytesIO(archive.read(f"{root}data.pkl")), {})

        def storage_bytes(storage: _Storage) -> bytearray:
            info = entries.get(f"{root}data/{storage.key}")
            if info is None or info.file_size != storage.nbytes:
                there = "is not there" if info is None else f"has {info.file_size} bytes"
                raise _RefusedError(f"its storage {storage.key!r} {there}; wanted {storage.nbytes} bytes")
            return bytearray(archive.read(info))

        return _state(content, storage_bytes, part)


def _read_legacy(file: io.BufferedReader, part: str | None) -> dict[str, Tensor]:
    """Before PyTorch 1.6: five pickles (magic, version, system, content, keys), then each key's count and numbers."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if (magic := _interpret(data, {})) != _MAGIC or type(magic) is not int:
            raise _RefusedError("it is a pickle, but none that torch.save wrote")
        if _interpret(data, {}) != _PROTOCOL:
            raise _RefusedError(f"its format is not the {_PROTOCOL} that torch.save writes")
        system = _interpret(data, {})
        _check_order("little" if isinstance(system, dict) and system.get("little_endian") is True else "big")
        storages: dict[str, _Storage] = {}
        content = _interpret(data, storages)
        keys = _interpret(data, {})
        if not isinstance(keys, list) or not all(type(key) is str for key in keys) or len(set(keys)) != len(keys):
            raise _RefusedError("its list of storages is not a list of different keys")
        starts: dict[str, int] = {}
        for key in keys:
            if key not in storages:
                raise _RefusedError(f"it lists the storage {key!r}, which no tensor has")
            (numel,) = struct.unpack("<q", data.read(8))
            start, left = data.tell(), len(data) - data.tell()
            if numel != storages[key].numel or storages[key].nbytes > left:
                raise _RefusedError(
                    f"its storage {key!r} says {numel} numbers and has at most {left} bytes; "
                    f"wanted {storages[key].numel} numbers in {storages[key].nbytes} bytes"
                )
            starts[key] = start
            data.seek(start + storages[key].nbytes)

        def storage_bytes(storage: _Storage) -> bytearray:
            if storage.key not in starts:
                raise _RefusedError(f"its storage {storage.key!r} is not there")
            return bytearray(data[starts[storage.key] : starts[storage.key] + storage.nbytes])

        return _state(content, storage_bytes, part)


def _check_order(order: str) -> None:
    if order != sys.byteorder:
        raise _RefusedError(f"its numbers are in {order}-endian order, this machine's are {sys.byteorder}-endian")


# The pickle: a machine with a stack, of which this much is needed

_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset({
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING",
})  # fmt: skip
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_KNOWN = frozenset({
    *_CONSTANTS, *_LITERALS, *_TUPLES,
    "PROTO", "FRAME", "STOP", "MARK", "TUPLE", "EMPTY_DICT", "EMPTY_LIST", "SETITEM", "SETITEMS", "APPEND", "APPENDS",
    "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "BINPERSID", "REDUCE", "BUILD",
})  # fmt: skip


class _Stack:
    """The stack of a pickle, with its marks."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.marks: list[int] = []

    def pop(self, count: int = 1) -> list[Any]:
        if count > len(self.items) - (self.marks[-1] if self.marks else 0):
            raise _RefusedError("its pickle takes more than it has put down")
        at = len(self.items) - count
        taken = self.items[at:]
        del self.items[at:]
        return taken

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise _RefusedError("its pickle ends what it has not begun")
        at = self.marks.pop()
        taken = self.items[at:]
        del self.items[at:]
        return taken

    def top(self, kind: type) -> Any:
        (value,) = self.pop()
        if type(value) is not kind:
            raise _RefusedError(f"its pickle fills a {kind.__name__}, but what is there is {_kind(value)}")
        self.items.append(value)
        return value


def _interpret(source: io.BytesIO | mmap.mmap, storages: dict[str, _Storage]) -> Any:
    """What the next pickle of `source` says: dicts, lists, tuples, strings, numbers, and `_View` for tensors.

    storages: filled with those that the pickle names. Every other kind of object, and every other name, is refused.
    """
    stack = _Stack()
    memo: dict[int, Any] = {}
    while code := source.read(1):
        opcode = _OPCODES.get(code.decode("latin-1"))
        if opcode is None or opcode.name not in _KNOWN:  # before its argument is looked at
            name = repr(code) if opcode is None else opcode.name
            raise _RefusedError(f"its pickle uses {name}, which a state dict needs not: save the network's state_dict()")
        name = opcode.name
        argument: Any = None
        if name == "GLOBAL":
            argument = _line(source), _line(source)
        elif opcode.arg is not None:
            argument = opcode.arg.reader(source)  # type: ignore[arg-type]  # it reads no more than read and readline give
        if name in _LITERALS:
            stack.items.append(argument)
        elif name in _CONSTANTS:
            stack.items.append(_CONSTANTS[name])
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in memo:
                raise _RefusedError(f"its pickle remembers nothing under {argument}")
            stack.items.append(memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            (value,) = stack.pop()
            stack.items.append(value)
            memo[len(memo) if name == "MEMOIZE" else argument] = value
        elif name == "MARK":
            stack.marks.append(len(stack.items))
        elif name in _TUPLES:
            stack.items.append(tuple(stack.pop(_TUPLES[name])))
        elif name == "TUPLE":
            stack.items.append(tuple(stack.pop_to_mark()))
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.items.append({} if name == "EMPTY_DICT" else [])
        elif name in ("SETITEM", "SETITEMS"):
            pairs = stack.pop(2) if name == "SETITEM" else stack.pop_to_mark()
            _fill(stack.top(dict), pairs)
        elif name in ("APPEND", "APPENDS"):
            values = stack.pop() if name == "APPEND" else stack.pop_to_mark()
            stack.top(list).extend(values)
        elif name == "GLOBAL":
            stack.items.append(_named(*argument))
        elif name == "STACK_GLOBAL":
            stack.items.append(_named(*stack.pop(2)))
        elif name == "BINPERSID":
            stack.items.append(_storage(stack.pop()[0], storages))
        elif name == "REDUCE":
            stack.items.append(_made(*stack.pop(2)))
        elif name == "BUILD":  # the attributes of an OrderedDict, such as _metadata, which decide nothing here
            (state,) = stack.pop()
            if type(state) is not dict:
                raise _RefusedError(f"its pickle builds an object out of {_kind(state)}")
            stack.top(dict)
        elif name == "STOP":
            (value,) = stack.pop()
            return value
    raise _RefusedError("its pickle has no end")


def _line(source: io.BytesIO | mmap.mmap) -> str:
    line = source.readline()
    if not line.endswith(b"\n"):
        raise _RefusedError("its pickle has no end")
    return line[:-1].decode("utf-8")


def _fill(into: dict[Any, Any], pairs: list[Any]) -> None:
    if len(pairs) % 2:
        raise _RefusedError("its pickle has a key without a value")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if type(key) not in (str, int):
            raise _RefusedError(f"a key in it is {_kind(key)}, wanted a string")
        into[key] = value


def _named(module: Any, name: Any) -> _Global:
    """A name that a state dict may hold. The check comes before anything is done with it, and nothing is imported."""
    if type(module) is not str or type(name) is not str:
        raise _RefusedError("its pickle imports a name that is no string")
    known = (module, name) in (_REBUILD, _PARAMETER, _DICT) or (module == "torch" and name in _STORAGES)
    if not known:
        raise _RefusedError(
            f"it asks for {module}.{name}, which a state dict needs not, and which unpickling would run. "
            "Where you trust the file, load it and save its state_dict() as safetensors"
        )
    return _Global(module, name)


def _storage(identity: Any, storages: dict[str, _Storage]) -> _Storage:
    """("storage", kind, key, place, count of numbers), with one more None in the older format."""
    if type(identity) is not tuple or len(identity) not in (5, 6) or (len(identity) == 6 and identity[5] is not None):
        raise _RefusedError("its pickle refers to something outside itself that is no storage")
    word, kind, key, _place, numel = identity[:5]
    if type(word) is not str or word != "storage" or type(kind) is not _Global or kind.module != "torch" or type(key) is not str:
        raise _RefusedError("its pickle refers to something outside itself that is no storage")
    if type(numel) is not int or not 0 <= numel < _LARGEST:
        raise _RefusedError(f"its storage {key!r} has an impossible size")
    storage = _Storage(key, _STORAGES[kind.name], numel)
    if storages.setdefault(key, storage) != storage:
        raise _RefusedError(f"its storage {key!r} is described in two ways")
    return storage


def _made(what: Any, arguments: Any) -> Any:
    """What a pickle's call of one of the known names gives: a dict, or the description of a tensor."""
    called = (what.module, what.name) if type(what) is _Global else None
    if type(arguments) is tuple:
        if called == _DICT and not arguments:
            return {}
        if called == _REBUILD and len(arguments) in (6, 7):
            storage, offset, size, stride = arguments[:4]
            if type(storage) is _Storage and type(size) is tuple and type(stride) is tuple:
                numbers = (offset, *size, *stride)
                if any(type(k) is not int or not 0 <= k < _LARGEST for k in numbers) or not len(size) == len(stride) <= 32:
                    raise _RefusedError("a tensor in it has an impossible size, stride or offset, or too many axes")
                return _View(storage, offset, size, stride)
        if called == _PARAMETER and len(arguments) == 3 and type(arguments[0]) is _View:
            return arguments[0]
    raise _RefusedError(
        f"its pickle calls {'.'.join(called) if called else _kind(what)} with arguments that torch.save never writes"
    )


# Fetching


def fetch(url: str, path: str | os.PathLike[str], sha256: str, *, show: bool = True, timeout: float = 30.0) -> Path:
    """Download `url` to `path`, which appears only when it is whole and its sha256 (hex digits) is the wanted one.

    show: a progress bar. timeout: seconds without a byte before giving up. What stands at `path` is replaced.
    Raises OSError when it cannot be fetched, ValueError when what came is something else; both say what to type.
    """
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    path = Path(path)
    by_hand = f"Fetch it elsewhere (curl -L -o {path.name} {url}) and put it at {path}"
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, got = hashlib.sha256(), 0
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=path.parent) as folder:
        part = Path(folder) / path.name
        try:
            with urlopen(Request(url, headers={"User-Agent": "alphabar"}), timeout=timeout) as answer, part.open("wb") as file:
                total = int(answer.headers.get("Content-Length") or 0)
                with track(total / 1e6, f"fetching {path.name}", "MB", show=show) as advance:
                    while block := answer.read(1 << 18):
                        file.write(block)
                        digest.update(block)
                        got += len(block)
                        advance(len(block) / 1e6)
            if got < total:
                raise ConnectionError(f"the connection ended after {got} of {total} bytes")
        except (OSError, HTTPException) as error:
            raise OSError(f"{url} cannot be fetched ({error}). {by_hand}") from error
        if digest.hexdigest() != sha256.lower():
            raise ValueError(
                f"{url} gave {got} bytes whose sha256 is {digest.hexdigest()}, wanted {sha256}: it is not the file that was "
                f"published there, so it was thrown away. {by_hand}"
            )
        os.replace(part, path)
    return path


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file, in hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
