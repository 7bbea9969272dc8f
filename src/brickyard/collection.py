"""A nested dictionary of bricks that runs as one module."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, final

from torch import nn

from brickyard.brick import Brick, Tags, as_tags
from brickyard.compiling import constant_result, not_compiled
from brickyard.errors import BrickError, MissingInputError, nearest
from brickyard.graph import BrickGraph
from brickyard.modules import BrickModule
from brickyard.names import by_name, is_inside, join, place_of, places
from brickyard.plan import Plan, make_plan, owners
from brickyard.pretrained import Pretrained
from brickyard.private_names import submodules
from brickyard.storage.weights import load_bricks, save_bricks

BrickTree = Mapping[str, Any] | nn.ModuleDict  # {name: a Brick, a BrickCollection or another such tree}

_Names = tuple[str, ...]
_MOST_PLANS = 256  # kept for a collection; a caller that asks for ever new outputs must not fill the memory


@final
class BrickCollection(Pretrained, nn.ModuleDict):
    """A dictionary of named bricks that is also a graph: every brick names what it reads and writes.

    Args:
        bricks: A nested dictionary of bricks or collections. It and its bricks stay as they are: the collection holds
            copies with absolute names that share the modules, and metrics of its own.

    It is an `nn.ModuleDict`: `collection["seg"]["head"]` or `collection["seg/head"]` is a brick, and bricks can be set,
    updated, popped and deleted at any time; each change is resolved and checked like the first dictionary, and leaves
    the collection as it was if it is refused.

    Raises:
        BrickGraphError: A cycle, two producers of one name, a name that does not resolve, a bad brick name.
        TypeError: A value that is neither brick, collection nor dictionary.
    """

    def __init__(self, bricks: BrickTree) -> None:
        super().__init__()
        self._place = ""
        self._adopt(BrickGraph({path: brick.placed(path) for path, brick in _flat(bricks)}))

    @classmethod
    def of_new(cls, bricks: Mapping[str, Brick]) -> BrickCollection:
        """A collection of bricks by their paths that nobody else holds: it takes them over, without copies."""
        for path, brick in bricks.items():
            brick.place(path)
        return cls._sharing(bricks)

    @classmethod
    def _sharing(cls, bricks: Mapping[str, Brick], place: str = "") -> BrickCollection:
        collection = cls({})
        collection._place = place
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
            named_inputs: What the bricks read and nobody makes; it is not changed.
            tags: Run only the bricks with one of these tags.
            return_inputs: Return the inputs too, before what was made.
            outputs: Run only what these values need, return only them, and drop every other value after its last
                reader.
            skip_missing: Leave out bricks whose inputs are absent and whatever depends on them, as for a batch that
                has labels for some tasks only.
            groups: `tags` in the spelling of TorchBricks 0.3.

        Raises:
            BrickInputError: The inputs are no dictionary.
            MissingInputError: An input is absent; nothing has run.
            UnknownNameError: A tag that is neither one of `Tag`'s nor carried by a brick.
            BrickGraphError: An output that nobody makes, or nothing to run.
        """
        values = by_name(named_inputs)
        plan = self.plan(tags if groups is None else groups, outputs, named_inputs if skip_missing else None)
        for name in plan.required:
            if name not in named_inputs:
                raise self._missing(plan, named_inputs)
        bricks = self._graph.bricks
        for path, drops in plan.steps:
            values.update(bricks[path](values))
            for name in drops:
                values.pop(name, None)
        if plan.outputs is not None:
            return {name: values[name] for name in plan.outputs if name in values}
        if return_inputs:
            return values
        return {name: value for name, value in values.items() if value is not named_inputs.get(name, self)}

    def plan(
        self, tags: Tags | None = None, outputs: str | Iterable[str] | None = None, given: Iterable[str] | None = None
    ) -> Plan:
        """The steps that a call with this selection takes; the arguments and errors are those of `make_plan`."""
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
        plans, key = self._graph.plans, (self._place, tags, outputs, given)
        if key not in plans:
            if len(plans) >= _MOST_PLANS:
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
        """Every brick by its path, those of nested collections included, in declared order."""
        inside = join(self._place, "")
        return {path: brick for path, brick in self._graph.bricks.items() if path.startswith(inside)}

    def required_inputs(self, tags: Tags | None = None, outputs: str | Iterable[str] | None = None) -> list[str]:
        """The names that a call with this selection must be given, sorted."""
        return list(self.plan(tags, outputs).required)

    def extract_losses(self, named_outputs: Mapping[str, Any]) -> dict[str, Any]:
        """The losses among the outputs, by name: what to sum for training.

        Sub-losses are left out, and so are losses that went into one of another brick, a weighted sum.
        """
        made = [brick for brick in self.bricks().values() if any(name in named_outputs for name in brick.loss_names)]
        summed = {read.name for brick in made for read in brick.reads}
        names = [name for brick in made for name in brick.loss_names if name not in summed]
        return {name: named_outputs[name] for name in names if name in named_outputs}

    def summarize(self, reset: bool) -> dict[str, Any]:
        """Every metric over the calls since the last reset, under its place; metrics that did not run are left out.

        Args:
            reset: Start anew afterwards.
        """
        return {name: value for brick in self.bricks().values() for name, value in brick.summarize(reset=reset).items()}

    def freeze(self, path: str) -> None:
        """Make the brick at `path`, or all below it, stand still: parameters and BatchNorm statistics, in any mode."""
        for brick in self._modules_at(path):
            brick.freeze()

    def unfreeze(self, path: str) -> None:
        """Train the brick at `path`, or all below it, again."""
        for brick in self._modules_at(path):
            brick.unfreeze()

    def sub_collection(self, tags: Tags | None = None, outputs: str | Iterable[str] | None = None) -> BrickCollection:
        """A collection of only the bricks that this selection runs; it shares them with this one."""
        selected = {step.path for step in self.plan(tags, outputs).steps}
        bricks = {path: brick for path, brick in self.bricks().items() if path in selected}
        return BrickCollection._sharing(bricks, self._place)

    def to_dict(self) -> dict[str, Any]:
        """The bricks as a nested dictionary."""
        return {key: child.to_dict() if isinstance(child, BrickCollection) else child for key, child in self.items()}

    def save_bricks(self, path_model_folder: str | os.PathLike[str], exist_ok: bool = False) -> None:
        """Write one safetensors file for each brick that has weights; see `weights.save_bricks`."""
        save_bricks(self._stored(), path_model_folder, exist_ok)

    def load_bricks(self, path_model_folder: str | os.PathLike[str]) -> None:
        """Load what `save_bricks` wrote; see `weights.load_bricks`."""
        load_bricks(self._stored(), path_model_folder)

    # As a dictionary

    def __getitem__(self, key: str) -> Any:
        child: Any = self
        for name in key.split("/"):
            if not isinstance(child, BrickCollection) or name not in child.keys():  # noqa: SIM118 - `in child` also takes paths
                raise KeyError(f"No brick '{key}' here. {nearest(key, self._keys())}")
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
        """Set several bricks at once: all of them, or none if one is refused. A replaced brick keeps its turn."""
        tree = {key: bricks[key] for key in bricks}
        placed = {path: brick.placed(path) for path, brick in _flat(tree, self._place)}
        tops = {join(self._place, key): None for key in tree}
        merged: dict[str, Brick] = {}
        for path, brick in self._graph.bricks.items():
            top = next((top for top in tops if is_inside(path, top)), None)
            if top is None:
                merged[path] = brick
            else:
                merged |= {path: brick for path, brick in placed.items() if is_inside(path, top)}
        self._graph.replace({**merged, **placed})
        self._sync()

    def pop(self, key: str) -> Any:
        """Take a brick or a nested collection out and return it; a collection then stands alone."""
        popped = self[key]
        top = join(self._place, key)
        own = {path: brick for path, brick in self._graph.bricks.items() if is_inside(path, top)}
        self._graph.replace({path: brick for path, brick in self._graph.bricks.items() if path not in own})
        parent = self[place_of(key)] if place_of(key) else self
        nn.ModuleDict.__delitem__(parent, key.rpartition("/")[2])
        if isinstance(popped, BrickCollection):
            popped._adopt(BrickGraph(own))
        return popped

    def clear(self) -> None:
        """Take every brick out."""
        for key in list(self):
            self.pop(key)

    def _keys(self) -> set[str]:
        """Every key that `self[key]` takes: the paths of bricks and of nested collections, from here."""
        paths = [path.removeprefix(join(self._place, "")) for path in self.bricks()]
        return set(self).union(paths, *(places(path) for path in paths))

    def _adopt(self, graph: BrickGraph) -> None:
        """Make `graph` this collection's, and that of every collection nested in it."""
        self._graph = graph
        self._sync()

    def _sync(self) -> None:
        """Bring the modules in line with the graph's bricks; nested collections that stay are the same objects."""
        children: dict[str, nn.Module] = {}
        registry = submodules(self)
        for path, brick in self.bricks().items():
            name, _, rest = path.removeprefix(join(self._place, "")).partition("/")
            if not rest:
                children[name] = brick
            elif name not in children:
                child = registry.get(name)
                if not isinstance(child, BrickCollection):
                    child = BrickCollection({})
                    child._place = join(self._place, name)
                child._adopt(self._graph)
                children[name] = child
        gone = [child for child in registry.values() if child not in children.values()]
        registry.clear()
        registry.update(children)
        for child in gone:
            if isinstance(child, BrickCollection):  # whoever still holds it changes it alone
                child._adopt(BrickGraph({brick.path: brick for brick in child.modules() if isinstance(brick, Brick)}))

    def _stored(self) -> dict[str, nn.Module]:
        """The modules that have weights, by their path from here."""
        modules = {path.removeprefix(join(self._place, "")): brick.module for path, brick in self.bricks().items()}
        return {path: module for path, module in modules.items() if module is not None and module.state_dict()}

    def _modules_at(self, path: str) -> list[BrickModule]:
        found = self[path]
        bricks = found.bricks().values() if isinstance(found, BrickCollection) else [found]
        return [brick for brick in bricks if isinstance(brick, BrickModule)]

    def _missing(self, plan: Plan, named_inputs: Mapping[str, Any]) -> MissingInputError:
        missing = []
        hints = []
        makers = owners({path: brick.writes for path, brick in self.bricks().items()}, "write")
        for name in plan.required:
            if name not in named_inputs:
                readers = (
                    step.path for step in plan.steps if any(r.name == name for r in self._graph.bricks[step.path].reads)
                )
                missing.append((name, next(readers)))
                if name in makers:
                    hints.append(f"'{name}' is made by brick '{makers[name]}', which these tags leave out.")
        return MissingInputError(missing, list(named_inputs), " ".join(hints))


def _flat(tree: BrickTree, place: str = "") -> Iterator[tuple[str, Brick]]:
    """Every brick of a nested dictionary with its path."""
    for key in tree:
        path, value = join(place, key), tree[key]
        if isinstance(value, Brick):
            yield path, value
        elif isinstance(value, (dict, BrickCollection)):
            yield from _flat(value, path)
        else:
            raise TypeError(f"'{path}': expected a brick, a collection or a dictionary, found {type(value).__name__}.")
