"""The weights of bricks as canonical safetensors files.

Canonical files have contiguous tensors and only `format=pt` as metadata, so that equal weights give equal bytes and one
sha256 identifies them.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from brickyard.core.brick import Brick
from brickyard.core.names import join
from brickyard.core.private_names import tensor_version
from brickyard.errors import BrickMismatchError, UnsafeBrickError
from brickyard.storage.atomic import PRIVATE, current, replaced_together
from brickyard.storage.tensor_file import DTYPES, SUFFIX, read_weights
from brickyard.storage.wrappers import plain_names, plain_state

_METADATA = {"format": "pt"}
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")

# Functions that fill a tensor: `torch.nn.init`, and the methods that it and timm's `trunc_normal_` consist of.
_FILLING = frozenset(
    [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]
    + ["add_", "clamp_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_"]
)
_hashes: WeakKeyDictionary[nn.Module, tuple[Any, str]] = WeakKeyDictionary()


def weighted_modules(bricks: Mapping[str, Brick], prefix: str) -> dict[str, nn.Module]:
    """Return the modules of bricks that have weights, by path relative to a prefix."""
    modules = {path.removeprefix(join(prefix, "")): brick.module for path, brick in bricks.items()}
    return {path: module for path, module in modules.items() if module is not None and module.state_dict()}


def save_bricks(modules: Mapping[str, nn.Module], folder: str | os.PathLike[str], exist_ok: bool = False) -> None:
    """Write `<folder>/<path>.safetensors` for each module, with the keys of the bare module.

    Args:
        modules: The modules by the path of their brick.
        folder: The folder, which is created if needed; a save that fails leaves it unchanged.
        exist_ok: Allow a folder that contains files; files of other names are kept.

    Raises:
        FileExistsError: The folder contains files and `exist_ok` is False.
        UnsafeBrickError: A module's state has an object that is not a tensor.
    """
    folder = target_folder(folder, exist_ok)
    with replaced_together(folder) as staging:
        for path, module in modules.items():
            write_weights(module, staging.folder / f"{path}{SUFFIX}")


def target_folder(folder: str | os.PathLike[str], exist_ok: bool) -> Path:
    """Return the path of a folder to save to, with `~` as the home of the user.

    Raises:
        FileExistsError: The folder contains files and `exist_ok` is False.
    """
    path = Path(folder).expanduser()
    if not exist_ok and path.exists() and any(file.name != PRIVATE for file in path.iterdir()):
        raise FileExistsError(f"{path} is not empty. Pass exist_ok=True to replace the bricks in it.")
    return path


def load_bricks(modules: Mapping[str, nn.Module], folder: str | os.PathLike[str]) -> None:
    """Load what `save_bricks` wrote, after every file has been checked.

    Args:
        modules: The modules by the path of their brick. One without a file keeps its weights, with a warning.
        folder: The folder. A safetensors file without a brick is ignored, with a warning.

    Raises:
        FileNotFoundError, NotADirectoryError: There is no such folder.
        UnsafeBrickError: A brick has only a pickled file.
        BrickIntegrityError: A file is truncated or not a safetensors file.
        BrickMismatchError: Keys or shapes differ from those of the modules; nothing was loaded.
    """
    folder = Path(folder).expanduser()
    if not folder.exists():
        raise FileNotFoundError(f"Model directory not found: {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"Model path is not a directory: {folder}")
    loaded: dict[str, dict[str, Tensor]] = {}
    problems: list[str] = []
    for path, module in modules.items():
        file = current(folder, f"{path}{SUFFIX}")
        if file.exists():
            loaded[path] = read_weights(file)
            problems += [f"{path}: {problem}" for problem in weight_problems(plain_state(module), loaded[path])]
        else:
            refuse_pickle(folder / path)
    if problems:
        raise BrickMismatchError(f"{folder} does not fit this collection, nothing was loaded", problems)
    for path in (path for path in modules if path not in loaded):
        warnings.warn(f"Brick '{path}' has no matching weight file and is initialized from scratch.", stacklevel=3)
    written = (file.relative_to(folder) for file in folder.rglob(f"*{SUFFIX}"))
    files = {file.with_suffix("").as_posix() for file in written if file.parts[0] != PRIVATE}
    for name in sorted(files - modules.keys()):
        warnings.warn(f"File '{name}{SUFFIX}' in {folder} belongs to no brick and was not loaded.", stacklevel=3)
    for path, tensors in loaded.items():
        module = modules[path]
        module.load_state_dict({name: tensors[plain] for name, plain in plain_names(module).items()})


def write_weights(module: nn.Module, file: Path, stored: Mapping[str, torch.dtype] = MappingProxyType({})) -> None:
    """Write a module's state as a canonical safetensors file.

    Args:
        module: The module.
        file: The file to write.
        stored: The dtypes that tensors had in the file that they were loaded from. If every value is exact in them,
            they are written in these again, so that float16 weights loaded as float32 keep their bytes.

    Raises:
        UnsafeBrickError: The state has an object that is not a tensor.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    mode = file.stat().st_mode  # that of any new file, by the umask; safetensors writes files for the owner only
    save_file(canonical_state(module, stored), file, metadata=_METADATA)
    file.chmod(mode)


def weights_sha256(module: nn.Module, stored: Mapping[str, torch.dtype] = MappingProxyType({})) -> str:
    """Return the sha256 of the file that `write_weights` would write.

    The hash is remembered until the state of the module changes.
    """
    fingerprint = (_fingerprint(module), tuple(stored.items()))
    known = _hashes.get(module)
    if known is None or known[0] != fingerprint:
        sha256 = hashlib.sha256(save(canonical_state(module, stored), metadata=_METADATA)).hexdigest()
        known = _hashes[module] = (fingerprint, sha256)
    return known[1]


def _fingerprint(module: nn.Module) -> tuple[Any, ...]:
    """Return values that change with the state: names, dtypes, shapes, addresses, versions and sums of the raw bits.

    The version of a tensor counts changes in place, except through `.data`, which the sum detects. Summing takes a
    fraction of the time of hashing.
    """
    return tuple(
        (key, value.dtype, tuple(value.shape), value.data_ptr(), tensor_version(value), _sum_of_bits(value))
        for key, value in module.state_dict().items()
        if isinstance(value, Tensor)
    )


def _sum_of_bits(tensor: Tensor) -> int:
    flat = tensor.detach().contiguous().flatten()
    words = flat.view(torch.int32) if flat.nbytes % 4 == 0 and flat.numel() else flat.view(torch.uint8)
    return int(words.sum(dtype=torch.int64))


def canonical_state(module: nn.Module, stored: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """Return a module's state as it is stored: contiguous tensors that share no memory; see `write_weights`."""
    tensors: dict[str, Tensor] = {}
    for key, value in plain_state(module).items():
        if not isinstance(value, Tensor):
            raise UnsafeBrickError(
                f"'{key}' of {type(module).__name__} is a {type(value).__name__}: only tensors are stored."
            )
        if value.dtype not in DTYPES.values():
            raise UnsafeBrickError(f"'{key}' of {type(module).__name__} is {value.dtype}, which cannot be stored.")
        tensors[key] = value.detach().contiguous().cpu()
    if stored and all(_is_exact(tensors[key], dtype) for key, dtype in stored.items() if key in tensors):
        tensors = {key: tensor.to(stored.get(key, tensor.dtype)) for key, tensor in tensors.items()}
    storages: set[int] = set()
    for key, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        if address in storages or tensor.untyped_storage().nbytes() != tensor.nbytes:
            tensors[key] = tensor.clone()  # safetensors refuses tied weights and views
        storages.add(address)
    return tensors


def _is_exact(tensor: Tensor, dtype: torch.dtype) -> bool:
    return torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)


def weight_problems(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """List the reasons why `tensors` cannot replace a module's `state`, one sentence per key."""
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
    """Set the tensors of a module without copying; those of another floating dtype than the module's are converted.

    Args:
        module: The module, typically built within `uninitialised`, or on the meta device.
        tensors: The weights, which the module holds from then on.
        what: The name of the brick, for errors.

    Returns:
        The stored dtypes of the tensors that were converted, for `write_weights`.

    Raises:
        BrickMismatchError: Keys or shapes differ from those of the module, which is unchanged.
    """
    state = plain_state(module)
    problems = weight_problems(state, tensors)
    if problems:
        raise BrickMismatchError(f"The weights do not fit {what}", problems)
    return set_tensors(state, tensors)


def set_tensors(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, torch.dtype]:
    """Set the tensors of a module's state, for which `weight_problems` has found none; see `assign_weights`."""
    for key, value in state.items():
        # As `load_state_dict(assign=True)`, without its walk over all modules, which costs more than reading, and with
        # tied weights that stay tied.
        tensor = tensors[key].to(value.dtype)
        if value.is_meta:
            is_parameter = isinstance(value, nn.Parameter)
            new = nn.Parameter(tensor, value.requires_grad) if is_parameter else tensor
            torch.utils.swap_tensors(value, new)  # type: ignore[no-untyped-call]
        else:
            value.data = tensor
    return {key: tensors[key].dtype for key, value in state.items() if tensors[key].dtype != value.dtype}


@final
class uninitialised(TorchFunctionMode):  # noqa: N801 - it is used as a function: `with uninitialised():`
    """Skip the initialisation of parameters within the block, for modules whose weights are loaded next.

    Only this thread is affected. On the meta device, where values do not exist, it is skipped for every tensor.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _FILLING:
            filled = args[0] if args else kwargs.get("tensor")  # `nn.init` passes it by keyword
            if type(filled) is nn.Parameter or (isinstance(filled, Tensor) and filled.is_meta):
                return filled
        return func(*args, **kwargs)


def refuse_pickle(stem: Path) -> None:
    """Raise `UnsafeBrickError` if a brick has only a pickled file; the stem is its path without suffix."""
    pickled = [stem.with_name(stem.name + suffix) for suffix in _PICKLES]
    for file in pickled:
        if file.exists():
            raise UnsafeBrickError(
                f"{file} is a pickle, which can run code when it is loaded. Save the weights as {stem.name}{SUFFIX} "
                "with safetensors in the program that created them."
            )
