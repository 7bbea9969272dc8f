"""The files of onnxruntime-web that run models in a browser: their version, hashes and addresses."""

from __future__ import annotations

import hashlib
import os
import shutil
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from brickyard.errors import BrickIntegrityError, BrickNotFoundError

VERSION: Final = "1.30.0"  # of the npm package onnxruntime-web; the hashes are those of its files
_MODULE, _WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_HASHES = {
    _MODULE: "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    _WASM: "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}
_CDN = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSION}/dist"


@final
@dataclass(frozen=True)
class Runtime:
    """Where a page loads onnxruntime-web from; a browser refuses files with other hashes.

    Attributes:
        base: The URL of the folder of the files, without "/" at the end. It is relative to the root of the site if it
            has no scheme.
    """

    base: str = _CDN

    @property
    def sources(self) -> tuple[str, ...]:
        """The URLs to allow in a Content-Security-Policy, () for files of the site itself."""
        return tuple(f"{self.base}/{name}" for name in _HASHES) if self._is_remote else ()

    def to_json(self, root: str) -> dict[str, str]:
        """Return the URLs and hashes of the files.

        Args:
            root: The relative URL from a page to the root of the site, ending with "/".
        """
        base = self.base if self._is_remote else f"{root}{self.base}"
        return {
            "module": f"{base}/{_MODULE}",
            "moduleIntegrity": _HASHES[_MODULE],
            "wasm": f"{base}/{_WASM}",
            "wasmIntegrity": _HASHES[_WASM],
        }

    @property
    def _is_remote(self) -> bool:
        return "://" in self.base


def copy_runtime(package: str | os.PathLike[str], target: Path) -> None:
    """Copy the files from a folder of the npm package into a new folder.

    Args:
        package: The folder of the package, `node_modules/onnxruntime-web`, or its folder `dist`.
        target: The folder to create.

    Raises:
        BrickNotFoundError: The folder lacks a file.
        BrickIntegrityError: A file is not that of this version.
    """
    folder = Path(package)
    folder = folder / "dist" if (folder / "dist").is_dir() else folder
    get = f"Get the package with: npm pack onnxruntime-web@{VERSION}"
    for name in _HASHES:
        if not (folder / name).is_file():
            raise BrickNotFoundError(f"No file {folder / name}. {get}")
    target.mkdir(parents=True)
    for name, expected in _HASHES.items():
        shutil.copyfile(folder / name, target / name)
        found = f"sha384-{b64encode(hashlib.sha384((target / name).read_bytes()).digest()).decode()}"
        if found != expected:
            raise BrickIntegrityError(
                f"{folder / name} is not the file of onnxruntime-web {VERSION}: expected {expected}, found {found}. "
                f"{get}"
            )
