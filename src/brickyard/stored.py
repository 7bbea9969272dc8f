"""The methods of a collection that store, load and share it: thin, over `storage`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from brickyard.core.brick import Brick
from brickyard.core.graph import BrickTree
from brickyard.storage.classes import renamed_head, sliced_head
from brickyard.storage.fit import Check
from brickyard.storage.lock import lock_model
from brickyard.storage.read import load_source
from brickyard.storage.replace import Source, replacements
from brickyard.storage.sources.files import Access
from brickyard.storage.weights import load_bricks, save_bricks, weighted_modules
from brickyard.storage.write import Refer, save_model

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


class Storable(ABC):
    """A base of `BrickCollection`, which has the bricks."""

    training: bool
    _prefix: str

    @classmethod
    @abstractmethod
    def of_new(cls, bricks: Mapping[str, Brick]) -> Self:
        """Create a collection from bricks that no other collection holds, without copying them.

        Args:
            bricks: The bricks by path.
        """

    @abstractmethod
    def bricks(self) -> dict[str, Brick]:
        """Return every brick by its path, including those of nested collections, in declared order."""

    @abstractmethod
    def update(self, bricks: BrickTree) -> None:
        """Set several bricks at once: all of them, or none if they are invalid. A replaced brick keeps its position."""

    @abstractmethod
    def __getitem__(self, key: str) -> Any: ...

    def save_bricks(self, path_model_folder: str | os.PathLike[str], exist_ok: bool = False) -> None:
        """Write one safetensors file for each brick with weights.

        Args:
            path_model_folder: The folder, which is created if needed.
            exist_ok: Allow a folder that contains files; files of other names are kept.

        Raises:
            FileExistsError: The folder contains files and `exist_ok` is False.
        """
        save_bricks(weighted_modules(self.bricks(), self._prefix), path_model_folder, exist_ok)

    def load_bricks(self, path_model_folder: str | os.PathLike[str]) -> None:
        """Load the weights that `save_bricks` wrote, after every file has been checked.

        A brick without a file keeps its weights, and a file without a brick is ignored, both with a warning.

        Raises:
            FileNotFoundError, NotADirectoryError: There is no such folder.
            UnsafeBrickError: A brick has only a pickled file.
            BrickIntegrityError: A file is truncated or not a safetensors file.
            BrickMismatchError: Keys or shapes differ from those of the modules; nothing was loaded.
        """
        load_bricks(weighted_modules(self.bricks(), self._prefix), path_model_folder)

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
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
    ) -> Self:
        """Load a model from a folder, the zoo, the Hub or a lock.

        Args:
            source: A folder, the name of a zoo model, `hf://user/repo`, a lock file, or the JSON values of a lock; see
                `storage.sources.uri` for all forms.
            revision: A branch, tag or commit of a repo.
            bricks: Load only these bricks, by path or prefix; no other weights are downloaded.
            check: How strictly heads are compared with the backbone, see `fits`. A head that was saved after its
                backbone had changed gives a warning.
            local_files_only: Look only into the cache of huggingface_hub.
            token: A token of the Hub, as for huggingface_hub.
            cache_dir: The folder of the cache of huggingface_hub, None for the default (`HF_HUB_CACHE`, `HF_HOME`).
            force_download: Download files from the Hub again that are in the cache.

        Raises:
            UnknownNameError: No such model, or a part that is not registered.
            BrickNotFoundError: There is no manifest, or no such brick.
            BrickMismatchError: A brick does not fit the backbone, or weights do not fit their brick.
            BrickIntegrityError: A file does not have the stated hash.
            UnsafeBrickError: A pickle, an invalid name, or a newer format.
            huggingface_hub's own errors for repos, revisions and tokens.
        """
        access = Access(token, local_files_only, cache_dir, force_download)
        return cls.of_new(load_source(source, revision=revision, bricks=bricks, check=check, access=access))

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        weights: str | None = None,
        refer: Refer = (),
        exist_ok: bool = True,
        bricks: str | Iterable[str] | None = None,
    ) -> None:
        """Write the model into a folder, from which `from_pretrained` loads it in any process.

        The files of an earlier model in the folder are replaced; other files are kept. If the call fails or is killed,
        the folder has the old model.

        Args:
            folder: The folder, which is created if needed. Each brick must wrap a part that `create_part` built.
            weights: A tag for the weights, the last part of the model's name.
            refer: Bricks to store as pinned references to where they are published: paths of bricks that were loaded
                from the Hub or the zoo, or {path: "hf://user/repo/backbone"}.
            exist_ok: Allow a folder that contains files, as for `save_bricks`.
            bricks: Write only these, by path or prefix, such as a new head; the other files of the model stay.

        Raises:
            FileExistsError: The folder contains files and `exist_ok` is False.
            UnsafeBrickError: A brick wraps an object that is not a registered part.
            BrickMismatchError: A reference is to other weights, or `bricks` are for another backbone than the folder's.
            BrickInputError: `refer` names a brick that is not published, two bricks share a module with weights, or a
                value cannot be stored as JSON.
        """
        save_model(self.bricks(), folder, weights=weights, refer=refer, exist_ok=exist_ok, only=bricks)

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
        allow_licences: Iterable[str] | None = None,
    ) -> CommitInfo:
        """Push the model, or some of its bricks, as one commit that contains only what changed.

        Bricks that others pushed to the repo are kept. If the repo changes during the push, the push is repeated on top
        of the new commit.

        Args:
            repo_id: `user/repo`, which is created if needed.
            bricks: Paths or prefixes of bricks, such as "seg"; None for all.
            refer: Bricks to store as references, see `save_pretrained`.
            create_pr: Open a pull request instead of committing to the main branch.
            private: Whether a new repo is private, None for the default of the user or organisation.
            token: A token of the Hub, as for huggingface_hub.
            commit_message: By default it names the bricks.
            allow_stale: Push heads whose backbone has changed since they were trained.
            allow_licences: The licences that the pushed bricks with weights may have, as the Hub spells them, such as
                ["apache-2.0", "mit"]; a brick that states none is refused. None allows any.

        Returns:
            huggingface_hub's description of the commit, with `.oid`, `.commit_url` and `.pr_url`.

        Raises:
            PushConflictError: One of the bricks changed in the repo since this model was loaded or pushed.
            BrickMismatchError: A head is stale, a reference is to other weights, or a licence is not allowed.
            BrickNotFoundError: The model has no such brick.
            UnsafeBrickError: A brick wraps an object that is not a registered part.
            huggingface_hub's own errors for repos, tokens and the network.
        """
        from brickyard.storage.push import push_model  # noqa: PLC0415 - huggingface_hub takes a while to import

        return push_model(
            self.bricks(),
            repo_id,
            only=bricks,
            refer=refer,
            create_pr=create_pr,
            private=private,
            token=token,
            commit_message=commit_message,
            allow_stale=allow_stale,
            allow_licences=allow_licences,
        )

    def swap(
        self,
        name: str,
        source: Source,
        *,
        check: Check = "exact",
        token: str | bool | None = None,
        local_files_only: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
    ) -> None:
        """Replace a brick or a head in place; if it is refused, the model is unchanged.

        A head brings its class names. If they differ from those of the present head, its loss, metrics and
        visualization are built for them. A backbone brings the normalisation of its images.

        Args:
            name: The path of a brick, "seg/head", or the name of a head, "seg"; a new head is added.
            source: The source of the other brick or head: `hf://user/repo@rev/seg`, a folder, a zoo model, or a path in
                one (without a path, `name`). Or a brick, a collection, a dictionary of bricks, or a module, which takes
                the names of the present brick.
            check: How strictly it is compared with the model, see `fits`.
            token: A token of the Hub, as for huggingface_hub.
            local_files_only: Look only into the cache of huggingface_hub.
            cache_dir: See `from_pretrained`.
            force_download: See `from_pretrained`.

        Raises:
            BrickMismatchError: It does not fit; its weights were not downloaded.
            BrickNotFoundError: There is no such brick in the source or the model.
            BrickIntegrityError, UnsafeBrickError: The source is damaged or not as brickyard writes it.
        """
        access = Access(token, local_files_only, cache_dir, force_download)
        self.update(replacements(self, name, source, check, access))
        self[name].train(self.training)

    def keep_classes(self, head: str, names: Sequence[str]) -> None:
        """Reduce a trained head to some of its classes in place, with its loss, metrics and visualization.

        Logits, heatmaps and boxes of the kept classes are those of before. A softmax, and the class with the highest
        score of a pixel, are over the kept classes: a segmentation without "background" gives every pixel one of the
        others. Labels have the numbers of the kept classes from then on, and the measured metrics are dropped.

        Args:
            head: The name of the head, "seg".
            names: The names of the classes to keep, in the order of the new outputs.

        Raises:
            UnknownNameError: The head has no class of this name.
            BrickNotFoundError: The model has no such head.
            BrickInputError: No names, a name twice, a head that predicts no classes, too few classes for it, or a brick
                of the head that is not a registered part.
        """
        self._update_head(head, sliced_head(self.bricks(), head, names))

    def rename_labels(self, head: str, names: Sequence[str] | Mapping[str, str]) -> None:
        """Give the classes of a head other names in place; its weights stay.

        Args:
            head: The name of the head, "seg".
            names: A name for each class, in the order of the outputs; or new names by the present ones, for some.

        Raises:
            Errors as for `keep_classes`, and BrickInputError for another number of names.
        """
        self._update_head(head, renamed_head(self.bricks(), head, names))

    def _update_head(self, name: str, bricks: Mapping[str, Brick]) -> None:
        self.update(bricks)
        self[name].train(self.training)

    def lock(self, file: str | os.PathLike[str] | None = None) -> dict[str, Any]:
        """Return the manifest of the model with absolute references, JSON from which `from_pretrained` rebuilds it.

        Bricks without weights that are not published, such as a loss that a swap built, are included as a whole.

        Args:
            file: A file to write it to.

        Raises:
            BrickInputError: A brick with weights is not published, or has changed since.
        """
        return lock_model(self.bricks(), file)
