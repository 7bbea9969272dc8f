"""What a collection does with folders and the Hub: its methods, whose functions live on a floor above.

They are imported when a method is first called. Each method takes the arguments of the function of its name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, cast

from torch import nn

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

    from brickyard.collection import BrickCollection
    from brickyard.storage.fit import Check
    from brickyard.storage.write import Refer


class Pretrained:
    """Saved, loaded, pushed, swapped and locked; to be mixed into a collection."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | Mapping[str, Any],
        *,
        revision: str | None = None,
        bricks: str | Iterable[str] | None = None,
        check: Check = "exact",
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Build the model that is stored somewhere; see `store.from_pretrained`."""
        from brickyard.storage.read import from_pretrained  # noqa: PLC0415

        model: Any = from_pretrained(
            source, revision=revision, bricks=bricks, check=check, local_files_only=local_files_only, token=token
        )
        return model  # type: ignore[no-any-return]

    def save_pretrained(self, folder: str | os.PathLike[str], *, weights: str | None = None, refer: Refer = ()) -> None:
        """Write the model as a folder; see `save.save_pretrained`."""
        from brickyard.storage.write import save_pretrained  # noqa: PLC0415

        save_pretrained(cast("BrickCollection", self), folder, weights=weights, refer=refer)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        bricks: str | Iterable[str] | None = None,
        refer: Refer = (),
        create_pr: bool = False,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
        allow_stale: bool = False,
    ) -> CommitInfo:
        """Publish the model, or some of its bricks, as one commit; see `hub.push_to_hub`."""
        from brickyard.storage.push import push_to_hub  # noqa: PLC0415

        return push_to_hub(
            cast("BrickCollection", self),
            repo_id,
            bricks=bricks,
            refer=refer,
            create_pr=create_pr,
            private=private,
            token=token,
            commit_message=commit_message,
            allow_stale=allow_stale,
        )

    def swap(
        self,
        name: str,
        source: str | os.PathLike[str] | nn.Module | dict[str, Any],
        *,
        check: Check = "exact",
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Replace a brick or a head, in place; see `swap.swap`."""
        from brickyard.storage.replace import swap  # noqa: PLC0415

        swap(cast("BrickCollection", self), name, source, check=check, token=token, local_files_only=local_files_only)

    def lock(self, file: str | os.PathLike[str] | None = None) -> dict[str, Any]:
        """The model as nothing but pinned references; see `lock.lock`."""
        from brickyard.storage.lock import lock  # noqa: PLC0415

        return lock(cast("BrickCollection", self), file)
