"""`BrickCollection`: a nested dictionary of bricks that runs as one module."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, final

import torch
from torch import nn

from brickyard.core.brick import Brick, Tags, as_tags
from brickyard.core.calls import explain, missing_inputs, run_step
from brickyard.core.compiling import constant_result, not_compiled
from brickyard.core.graph import BrickGraph, BrickTree, flatten, replace_inside, set_paths
from brickyard.core.losses import find_losses
from brickyard.core.modules import BrickModule
from brickyard.core.names import by_name, is_inside, join, prefix_of, prefixes
from brickyard.core.plan import Plan, make_plan
from brickyard.core.private_names import submodules
from brickyard.errors import BrickError, nearest
from brickyard.recipe.labels import check_labels, labels_of_model
from brickyard.storage.fit import Check
from brickyard.storage.lock import lock_model
from brickyard.storage.read import load_source
from brickyard.storage.replace import Source, replacements
from brickyard.storage.sources.files import Access
from brickyard.storage.weights import load_bricks, save_bricks, weighted_modules
from brickyard.storage.write import Refer, save_model

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

_Names = tuple[str, ...]
_MAX_PLANS = 256  # per collection: a caller that selects ever new outputs must not fill the memory


@final
class BrickCollection(nn.ModuleDict):
    """A dictionary of named bricks that is also a graph: each brick names its inputs and outputs.

    It is an `nn.ModuleDict`: `collection["seg"]["head"]` and `collection["seg/head"]` are the same brick. Bricks can be
    set, updated, popped and deleted at any time; a change that makes the graph invalid raises and changes nothing.

    Args:
        bricks: A nested dictionary of bricks or collections. It is left untouched: the collection holds copies of the
            bricks with absolute names, which share the modules; metrics are cloned.

    Raises:
        BrickGraphError: A cycle, two producers of one name, a name that cannot be resolved, an invalid brick name.
        TypeError: A value that is neither a brick, a collection nor a dictionary.

    Example:
        >>> from torch import nn
        >>> from brickyard import BrickCollection, BrickTrainable
        >>> collection = BrickCollection({"head": BrickTrainable(nn.Linear(4, 2), ["features"], ["logits"])})
        >>> collection.required_inputs()
        ['features']
    """

    def __init__(self, bricks: BrickTree) -> None:
        super().__init__()
        self._prefix = ""
        self._adopt(BrickGraph({path: brick.at_path(path) for path, brick in flatten(bricks).items()}))

    @classmethod
    def of_new(cls, bricks: Mapping[str, Brick]) -> BrickCollection:
        """Create a collection from bricks that no other collection holds, without copying them.

        Args:
            bricks: The bricks by path.
        """
        return cls._sharing(set_paths(dict(bricks)))

    @classmethod
    def _sharing(cls, bricks: Mapping[str, Brick], prefix: str = "") -> BrickCollection:
        collection = cls({})
        collection._prefix = prefix
        collection._adopt(BrickGraph(dict(bricks)))
        return collection

    def forward(
        self,
        named_inputs: Mapping[str, Any],
        tags: Tags | None = None,
        return_inputs: bool = True,
        outputs: str | Iterable[str] | None = None,
        skip_missing: bool = False,
        *,
        groups: Tags | None = None,
    ) -> dict[str, Any]:
        """Run the bricks and return the values by name.

        Args:
            named_inputs: The values that bricks read and no brick writes, by name; the dictionary is not modified.
            tags: Run only the bricks with one of these tags.
            return_inputs: Return the inputs as well, before the outputs.
            outputs: Run only the bricks that these values depend on and return only these values; any other value is
                dropped after its last reader.
            skip_missing: Skip bricks whose inputs are absent, and the bricks that depend on them, as for a batch that
                is labelled for some tasks only.
            groups: `tags` in the spelling of TorchBricks 0.3.

        `torch.compile(fullgraph=True)` takes every selection without metrics and visualization, whose bricks break the
        graph.

        Raises:
            BrickInputError: The inputs are not a dictionary, or a label is not what its head expects.
            MissingInputError: An input is absent; no brick has run.
            UnknownNameError: A tag that is neither one of `Tag` nor that of a brick.
            BrickGraphError: An output that no brick writes, or no brick to run.
            Exception: Any exception of a brick, with a note that names the brick and the shapes of its inputs.
        """
        values = by_name(named_inputs)
        plan = self.plan(tags if groups is None else groups, outputs, named_inputs if skip_missing else None)
        for name in plan.required:
            if name not in named_inputs:
                raise missing_inputs(plan, self.bricks(), named_inputs)
        bricks = self._graph.bricks
        if torch.compiler.is_compiling():  # Dynamo cannot break the graph, as at a metric, within a try block
            for step in plan.steps:
                run_step(bricks, step, values)
        else:
            self._check_labels(named_inputs, plan.reads)
            for step in plan.steps:
                try:
                    run_step(bricks, step, values)
                except Exception as error:
                    explain(error, bricks[step.path], values)
                    raise
        if plan.outputs is not None:
            return {name: values[name] for name in plan.outputs if name in values}
        if return_inputs:
            return values
        return {name: value for name, value in values.items() if value is not named_inputs.get(name, self)}

    def check_labels(self, named_inputs: Mapping[str, Any]) -> None:
        """Check the labels of a batch: names, types, shapes and values, on the CPU.

        A call checks them as well, but neither in a compiled graph nor, for values on a GPU, where it would have to
        wait for the result. There, call this before a batch is moved.

        Raises:
            BrickInputError: A label is not what its head expects, or its name is misspelled.
        """
        self._check_labels(named_inputs, named_inputs)

    def _check_labels(self, named_inputs: Mapping[str, Any], read: Collection[str]) -> None:
        if self._graph.labels is None:
            self._graph.labels = labels_of_model(self._graph.bricks)
        check_labels(self._graph.labels, named_inputs, read)

    def plan(
        self, tags: Tags | None = None, outputs: str | Iterable[str] | None = None, given: Iterable[str] | None = None
    ) -> Plan:
        """Return the steps of a call with this selection; arguments and errors are those of `make_plan`."""
        selection = (
            None if tags is None else tuple(sorted(as_tags(tags))),
            None if outputs is None else ((outputs,) if isinstance(outputs, str) else tuple(outputs)),
            None if given is None else tuple(given),
        )
        plan: Plan | None = self._known_plan(self._graph.wiring, *selection)
        return self._new_plan(*selection) if plan is None else plan

    # torch.compile does not trace the planner: it runs this method once and keeps the result as a constant. Dynamo
    # guards the arguments, so the wiring is one of them, and a selection is tuples of strings, which every torch passes
    # on unchanged. Where a plan cannot be made, the graph breaks at `_new_plan`, which raises the planner's own error.
    @constant_result
    def _known_plan(
        self, wiring: str, tags: _Names | None, outputs: _Names | None, given: _Names | None
    ) -> Plan | None:
        plans, key = self._graph.plans, (self._prefix, tags, outputs, given)
        if key not in plans:
            if len(plans) >= _MAX_PLANS:
                plans.clear()
            try:
                plans[key] = make_plan(self.bricks(), tags, outputs, given)
            except BrickError:
                return None
        return plans[key]

    @not_compiled("invalid tags or outputs: call the collection without torch.compile to see the error")
    def _new_plan(self, tags: _Names | None, outputs: _Names | None, given: _Names | None) -> Plan:
        return make_plan(self.bricks(), tags, outputs, given)

    def bricks(self) -> dict[str, Brick]:
        """Return every brick by its path, including those of nested collections, in declared order."""
        inside = join(self._prefix, "")
        return {path: brick for path, brick in self._graph.bricks.items() if path.startswith(inside)}

    def required_inputs(self, tags: Tags | None = None, outputs: str | Iterable[str] | None = None) -> list[str]:
        """Return the names of the inputs that a call with this selection needs, sorted."""
        return list(self.plan(tags, outputs).required)

    def extract_losses(self, named_outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the losses among the outputs by name, to be summed for training.

        Sub-losses are left out, and so are losses that another loss brick reads, such as a weighted sum.

        Raises:
            BrickInputError: A value under the name of a loss is not a floating-point tensor, so no loss brick wrote it.
        """
        return find_losses(self.bricks().values(), named_outputs)

    def summarize(self, reset: bool) -> dict[str, Any]:
        """Compute every metric since the last reset, by path, and what a module's own `summarize(reset)` returns.

        Args:
            reset: Reset the metrics afterwards.
        """
        return {name: value for brick in self.bricks().values() for name, value in brick.summarize(reset=reset).items()}

    def freeze(self, path: str) -> None:
        """Freeze the brick at `path`, or all below it: parameters and BatchNorm statistics, in any mode."""
        for brick in self._modules_at(path):
            brick.freeze()

    def unfreeze(self, path: str) -> None:
        """Make the brick at `path`, or all below it, trainable."""
        for brick in self._modules_at(path):
            brick.unfreeze()

    def sub_collection(self, tags: Tags | None = None, outputs: str | Iterable[str] | None = None) -> BrickCollection:
        """Return a collection of the bricks that this selection runs; it shares them with this one."""
        selected = {step.path for step in self.plan(tags, outputs).steps}
        bricks = {path: brick for path, brick in self.bricks().items() if path in selected}
        return BrickCollection._sharing(bricks, self._prefix)

    def to_dict(self) -> dict[str, Any]:
        """Return the bricks as a nested dictionary."""
        return {key: child.to_dict() if isinstance(child, BrickCollection) else child for key, child in self.items()}

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

        Raises:
            UnknownNameError: No such model, or a part that is not registered.
            BrickNotFoundError: There is no manifest, or no such brick.
            BrickMismatchError: A brick does not fit the backbone, or weights do not fit their brick.
            BrickIntegrityError: A file does not have the stated hash.
            UnsafeBrickError: A pickle, an invalid name, or a newer format.
            huggingface_hub's own errors for repos, revisions and tokens.
        """
        access = Access(token, local_files_only)
        return cls._sharing(load_source(source, revision=revision, bricks=bricks, check=check, access=access))

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

        Returns:
            huggingface_hub's description of the commit, with `.oid`, `.commit_url` and `.pr_url`.

        Raises:
            PushConflictError: One of the bricks changed in the repo since this model was loaded or pushed.
            BrickMismatchError: A head is stale, or a reference is to other weights.
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
        )

    def swap(
        self,
        name: str,
        source: Source,
        *,
        check: Check = "exact",
        token: str | bool | None = None,
        local_files_only: bool = False,
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

        Raises:
            BrickMismatchError: It does not fit; its weights were not downloaded.
            BrickNotFoundError: There is no such brick in the source or the model.
            BrickIntegrityError, UnsafeBrickError: The source is damaged or not as brickyard writes it.
        """
        self.update(replacements(self, name, source, check, Access(token, local_files_only)))
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

    def __getitem__(self, key: str) -> Any:
        child: Any = self
        for name in key.split("/"):
            if not isinstance(child, BrickCollection) or name not in child.keys():  # noqa: SIM118 - `in` takes paths too
                raise KeyError(f"No brick '{key}'. {nearest(key, self._keys())}")
            child = nn.ModuleDict.__getitem__(child, name)
        return child

    def __contains__(self, key: object) -> bool:
        return key in self._keys()

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (Brick, BrickCollection)):
            raise TypeError(f"Set a brick as an item: collection['{name}'] = ...")
        super().__setattr__(name, value)

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        self.pop(key)

    def update(self, bricks: BrickTree) -> None:
        """Set several bricks at once: all of them, or none if they are invalid. A replaced brick keeps its position."""
        tree = {key: bricks[key] for key in bricks}
        added = {path: brick.at_path(path) for path, brick in flatten(tree, self._prefix).items()}
        tops = [join(self._prefix, key) for key in tree]
        self._graph.replace(replace_inside(self._graph.bricks, tops, added))
        self._sync()

    def pop(self, key: str) -> Any:
        """Remove a brick or a nested collection and return it."""
        popped = self[key]
        top = join(self._prefix, key)
        removed = {path: brick for path, brick in self._graph.bricks.items() if is_inside(path, top)}
        self._graph.replace({path: brick for path, brick in self._graph.bricks.items() if path not in removed})
        parent = self[prefix_of(key)] if prefix_of(key) else self
        nn.ModuleDict.__delitem__(parent, key.rpartition("/")[2])
        if isinstance(popped, BrickCollection):
            popped._adopt(BrickGraph(removed))
        return popped

    def clear(self) -> None:
        """Remove every brick."""
        for key in list(self):
            self.pop(key)

    def _keys(self) -> set[str]:
        """Return every key of this collection: the paths of bricks and nested collections, relative to it."""
        paths = [path.removeprefix(join(self._prefix, "")) for path in self.bricks()]
        return set(self).union(paths, *(prefixes(path) for path in paths))

    def _adopt(self, graph: BrickGraph) -> None:
        """Set the graph of this collection and of every nested one."""
        self._graph = graph
        self._sync()

    def _sync(self) -> None:
        """Update the submodules to the graph's bricks; nested collections that remain stay the same objects."""
        children: dict[str, nn.Module] = {}
        registry = submodules(self)
        for path, brick in self.bricks().items():
            name, _, rest = path.removeprefix(join(self._prefix, "")).partition("/")
            if not rest:
                children[name] = brick
            elif name not in children:
                child = registry.get(name)
                if not isinstance(child, BrickCollection):
                    child = BrickCollection({})
                    child._prefix = join(self._prefix, name)
                child._adopt(self._graph)
                children[name] = child
        removed = [child for child in registry.values() if child not in children.values()]
        registry.clear()
        registry.update(children)
        for child in removed:
            if isinstance(child, BrickCollection):  # it becomes a collection of its own
                child._adopt(BrickGraph({brick.path: brick for brick in child.modules() if isinstance(brick, Brick)}))

    def _modules_at(self, path: str) -> list[BrickModule]:
        bricks = {"": item} if isinstance(item := self[path], Brick) else item.bricks()
        return [brick for brick in bricks.values() if isinstance(brick, BrickModule)]
