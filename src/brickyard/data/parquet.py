"""Read and write parquet files (the extra `scale`)."""

from __future__ import annotations

from typing import Any

from brickyard.errors import MissingExtraError


def load_pyarrow() -> Any:
    """Import pyarrow with its module `parquet`.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("Reading and writing parquet files", "scale") from None
    return pyarrow
