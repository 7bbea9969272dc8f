"""`BrickCollection`: a nested dictionary of bricks that runs as one module."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Self, final

import torch
from torch import nn

from brickyard.core.brick import Brick, Tags, as_tags
from brickyard.core.calls import explain, missing_inputs, run_step
from brickyard.core.compiling import constant_result, not_compiled
from brickyard.core.graph import BrickGraph, BrickTree, flatten, replace_inside, set_paths
from brickyard.core.html import to_html
from brickyard.core.losses import find_losses
from brickyard.core.modules import BrickModule
from brickyard.core.names import by_name, is_inside, join, prefix_of, prefixes
from brickyard.core.plan import Plan, make_plan
from brickyard.core.private_names import submodules
from brickyard.errors import BrickError, nearest
from brickyard.recipe.labels import check_labels, labels_of_model
from brickyard.stored import Storable

_Names = tuple[str, ...]
_MAX_PLANS = 256  # per collection: a caller that selects ever new outputs must not fill the memory


@final
class BrickCollection(Storable, nn.ModuleDict):
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
    def of_new(cls, bricks: Mapping[str, Brick]) -> Self:
        return cls._sharing(set_paths(dict(bricks)))

    @classmethod
    def _sharing(cls, bricks: Mapping[str, Brick], prefix: str = "") -> Self:
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

    def _repr_html_(self) -> str:
        """Show the collection in a notebook: a table of its bricks, and their graph; see `to_html`."""
        return to_html(self.bricks())

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
