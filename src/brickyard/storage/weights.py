"""Weights on disk: one canonical safetensors file for each brick.

Canonical means contiguous tensors and only `format=pt` in the header, so that equal weights are equal bytes and one
sha256 is a brick's identity.
"""

from __future__ import annotations

import functools
import hashlib
import json
import mmap
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor, nn

from brickyard.errors import BrickIntegrityError, BrickMismatchError, UnsafeBrickError
from brickyard.storage.atomic import PRIVATE, current, replaced_together

SUFFIX = ".safetensors"
_METADATA = {"format": "pt"}
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")

_DTYPES = {
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_INITIALISERS = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]
_skipping = threading.local()
_patching = threading.Lock()


def save_bricks(modules: Mapping[str, nn.Module], folder: str | os.PathLike[str], exist_ok: bool = False) -> None:
    """Write `<folder>/<path>.safetensors` for each module, with the keys of the bare module.

    Args:
        modules: The modules by their brick's path.
        folder: Where to; made if it is not there.
        exist_ok: Allow a folder that has files in it; those of other names stay.

    Raises:
        FileExistsError: The folder has files in it and `exist_ok` is False.
        UnsafeBrickError: A module's state has something that is no tensor.

    A save that fails leaves the folder as it was.
    """
    folder = Path(folder)
    if not exist_ok and folder.exists() and any(file.name != PRIVATE for file in folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty. Pass exist_ok=True to replace the bricks in it.")
    with replaced_together(folder) as staging:
        for path, module in modules.items():
            write_weights(module, staging.folder / f"{path}{SUFFIX}")


def load_bricks(modules: Mapping[str, nn.Module], folder: str | os.PathLike[str]) -> None:
    """Load what `save_bricks` wrote, after every file has been checked.

    Args:
        modules: The modules by their brick's path. One without a file keeps its weights, with a warning.
        folder: Where from. A safetensors file that is no brick's is left alone, with a warning.

    Raises:
        FileNotFoundError, NotADirectoryError: There is no such folder.
        UnsafeBrickError: A brick has only a pickled file.
        BrickIntegrityError: A file is cut short or is no safetensors file.
        BrickMismatchError: Keys or shapes are not those of the module; nothing was loaded.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"Model directory not found: {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"Model path is not a directory: {folder}")
    found: dict[str, dict[str, Tensor]] = {}
    problems: list[str] = []
    for path, module in modules.items():
        file = current(folder, f"{path}{SUFFIX}")
        if file.exists():
            found[path] = read_weights(file)
            problems += [f"{path}: {problem}" for problem in weight_problems(module.state_dict(), found[path])]
        else:
            refuse_pickle(folder / path)
    if problems:
        raise BrickMismatchError(f"{folder} does not fit this collection, nothing was loaded", problems)
    for path in (path for path in modules if path not in found):
        warnings.warn(f"Brick '{path}' has no matching weight file and is initialized from scratch.", stacklevel=3)
    written = (file.relative_to(folder) for file in folder.rglob(f"*{SUFFIX}"))
    files = {file.with_suffix("").as_posix() for file in written if file.parts[0] != PRIVATE}
    for stray in sorted(files - modules.keys()):
        warnings.warn(f"File '{stray}{SUFFIX}' in {folder} belongs to no brick and was not loaded.", stacklevel=3)
    for path, tensors in found.items():
        modules[path].load_state_dict(tensors)


def write_weights(module: nn.Module, file: Path, stored: Mapping[str, torch.dtype] = MappingProxyType({})) -> None:
    """Write a module's state as a canonical safetensors file.

    Args:
        module: Its state is written.
        file: Where to.
        stored: The types that tensors had in the file that they came from. They are written in those again where every
            value is exact in them, so that half-precision weights, loaded as float, keep their bytes.

    Raises:
        UnsafeBrickError: The state has something that is no tensor.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(canonical_state(module, stored), file, metadata=_METADATA)


def weights_sha256(module: nn.Module, stored: Mapping[str, torch.dtype] = MappingProxyType({})) -> str:
    """The sha256 of the file that `write_weights` would write."""
    return hashlib.sha256(save(canonical_state(module, stored), metadata=_METADATA)).hexdigest()


def canonical_state(module: nn.Module, stored: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """A module's state as it is stored: contiguous tensors that share no memory; the arguments are `write_weights`'."""
    tensors: dict[str, Tensor] = {}
    for key, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise UnsafeBrickError(
                f"'{key}' of {type(module).__name__} is a {type(value).__name__}: only tensors are stored."
            )
        if value.dtype not in _DTYPES.values():
            raise UnsafeBrickError(f"'{key}' of {type(module).__name__} is {value.dtype}, which is not stored.")
        tensors[key] = value.detach().contiguous().cpu()
    if stored and all(_is_exact(tensors[key], dtype) for key, dtype in stored.items() if key in tensors):
        tensors = {key: tensor.to(stored.get(key, tensor.dtype)) for key, tensor in tensors.items()}
    storages: set[int] = set()
    for key, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        if address in storages or tensor.untyped_storage().nbytes() != tensor.nbytes:
            tensors[key] = tensor.clone()  # the format refuses tied weights and views
        storages.add(address)
    return tensors


def _is_exact(tensor: Tensor, dtype: torch.dtype) -> bool:
    return torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)


def read_weights(file: Path) -> dict[str, Tensor]:
    """Map a safetensors file: a tensor is read from disk when it is used, and a change to it never reaches the file.

    safetensors checks the header. The mapping is ours, because its `load_file` copies every tensor.

    Raises:
        BrickIntegrityError: It is cut short or is no safetensors file.
    """
    try:
        with safe_open(file, "pt"):
            pass
    except SafetensorError as error:
        raise BrickIntegrityError(f"{file} is cut short or is no safetensors file ({error}). Fetch it again.") from None
    with file.open("rb") as stream:
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    try:
        return {key: _mapped(data, start, entry) for key, entry in header.items()}
    except (KeyError, RuntimeError, OverflowError) as error:
        raise BrickIntegrityError(f"{file} has a tensor that torch does not know: {error}") from None


def _mapped(data: mmap.mmap, start: int, entry: Mapping[str, Any]) -> Tensor:
    begin, end = entry["data_offsets"]
    dtype = _DTYPES[entry["dtype"]]
    if begin == end:
        return torch.empty(entry["shape"], dtype=dtype)
    count = (end - begin) // dtype.itemsize
    return torch.frombuffer(data, dtype=dtype, count=count, offset=start + begin).view(entry["shape"])


def weight_problems(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Why `tensors` cannot take the place of a module's `state`: one sentence for each key."""
    problems = [f"'{key}' is missing in the file" for key in state if key not in tensors]
    problems += [f"'{key}' of the file is not in the module" for key in tensors if key not in state]
    for key, tensor in tensors.items():
        if key not in state:
            continue
        expected = state[key]
        if tensor.shape != expected.shape:
            problems.append(f"'{key}': expected shape {tuple(expected.shape)}, found {tuple(tensor.shape)}")
        if tensor.is_floating_point() != expected.is_floating_point():
            problems.append(f"'{key}': expected {expected.dtype}, found {tensor.dtype}")
    return problems


def assign_weights(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> dict[str, torch.dtype]:
    """Give a module the tensors of `read_weights`, without copying: they are read from disk when they are used.

    Tensors of another floating type than the module's are converted, and copied by that.

    Args:
        module: Typically made under `uninitialised`.
        tensors: Its weights.
        what: Which brick it is, for errors.

    Returns:
        The stored types of the tensors that were converted, for `write_weights`.

    Raises:
        BrickMismatchError: Keys or shapes are not those of the module; it was left alone.
    """
    state = module.state_dict(keep_vars=True)
    problems = weight_problems(state, tensors)
    if problems:
        raise BrickMismatchError(f"The weights do not fit {what}", problems)
    for key, value in state.items():
        # What `load_state_dict(assign=True)` comes to, without its walk over the modules: that costs more than reading.
        value.data = tensors[key].to(value.dtype)
    return {key: tensors[key].dtype for key, value in state.items() if tensors[key].dtype != value.dtype}


@contextmanager
def uninitialised() -> Iterator[None]:
    """Within it, this thread makes modules whose parameters are not filled, for weights that a file brings anyway.

    The functions of `torch.nn.init` are exchanged for ones that look at the thread; so modules that another thread
    makes at the same time are initialised as ever.
    """
    with _patching:
        originals = {name: getattr(nn.init, name) for name in _INITIALISERS}
        for name, original in originals.items():
            setattr(nn.init, name, _unless_skipping(original))
        _skipping.now = True
        try:
            yield
        finally:
            _skipping.now = False
            for name, original in originals.items():
                setattr(nn.init, name, original)


def _unless_skipping(fill: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(fill)
    def fill_or_skip(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        skips = getattr(_skipping, "now", False) and type(tensor) is nn.Parameter
        return tensor if skips else fill(tensor, *args, **kwargs)

    return fill_or_skip


def refuse_pickle(stem: Path) -> None:
    """Raise `UnsafeBrickError` where a brick has only a pickled file; the stem is its path without the ending."""
    pickled = [stem.with_name(stem.name + suffix) for suffix in _PICKLES]
    for file in pickled:
        if file.exists():
            raise UnsafeBrickError(
                f"{file} is a pickle, which can run code when it is read. Save the weights as {stem.name}{SUFFIX} "
                "with safetensors in the program that made them."
            )
