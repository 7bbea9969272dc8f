"""Add a head to a trained model, and train it alone (the extra `train`)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from brickyard.collection import BrickCollection
from brickyard.core.brick import Brick
from brickyard.core.graph import flatten
from brickyard.core.modules import BrickModule
from brickyard.core.names import is_inside, join
from brickyard.core.specs import check_class_names
from brickyard.data.dataset import LabelledDataset
from brickyard.data.label_kinds import TARGETS
from brickyard.data.one_label import OneLabel
from brickyard.errors import BrickInputError, BrickMismatchError
from brickyard.recipe.build import head_bricks
from brickyard.recipe.inspection import provided_by
from brickyard.recipe.names import parse_heads
from brickyard.recipe.recipe import HeadRecipe
from brickyard.storage.fit import backbone_of
from brickyard.storage.manifest import check_stored_names
from brickyard.tasks.registry import TASKS, task_variants
from brickyard.training.config import TrainerConfig, TrainingConfig
from brickyard.training.fit import fit
from brickyard.training.matching import check_labels
from brickyard.training.progress import Validation
from brickyard.training.run_folder import BEST


def add_head(
    model: BrickCollection,
    name: str,
    task: str,
    train: LabelledDataset,
    val: LabelledDataset,
    out: Path,
    config: TrainingConfig,
    trainer_config: TrainerConfig = TrainerConfig(),  # noqa: B008 - it is frozen
    *,
    resume: bool = False,
    overwrite: bool = False,
    allow_nan: bool = False,
    provenance: Mapping[str, Any] | None = None,
    progress: bool = False,
    on_validation: Callable[[Validation], None] | None = None,
) -> dict[str, float]:
    """Add a head to a model and train it alone.

    All other bricks stay as they are, batch norm statistics included, so the outputs of the other heads are equal to
    the bit before and after. What is trained is a copy of the bricks that the head needs, with these frozen; the model
    gets the best head at the end, and is unchanged if the training fails.

    Args:
        model: The model. To store the new head beside the others, call
            `model.save_pretrained(folder, bricks=name)`.
        name: The name of the head.
        task: Its task, with or without one of the task's heads, such as "seg" or "seg-unet".
        train: The training data. The head gets the label of its name, or else the one of its task's name, and its
            classes; further labels are not read.
        val: The validation data.
        out: The folder of the run, see `fit`, as the further arguments. Its models have the backbone and the new head.
        config: The hyperparameters.
        trainer_config: The hardware.
        resume: See `fit`.
        overwrite: See `fit`.
        allow_nan: See `fit`.
        provenance: See `fit`.
        progress: See `fit`.
        on_validation: See `fit`.

    Returns:
        The metrics of the last validation.

    Raises:
        UnknownNameError: No such task, or no such head of it.
        BrickInputError: The name is taken, or the model has no backbone that declares what it provides.
        BrickMismatchError: The data has no labels for the head, or of another kind.
        UnsafeBrickError: The name is not one of a stored brick.
        Other errors as for `fit`.
    """
    recipe = new_head(model, name, task)
    label = _label_of(recipe, train)
    train, val = OneLabel(train, label, name), OneLabel(val, label, name)
    head = _build(model, recipe, train, config.seed)
    alone = _alone(model, name, head)
    check_labels(alone, train)
    metrics = fit(
        alone,
        train,
        val,
        out,
        config,
        trainer_config,
        resume=resume,
        overwrite=overwrite,
        allow_nan=allow_nan,
        provenance={**(provenance or {}), "head": {name: task}, "backbone": backbone_of(model.bricks()).sha256},
        progress=progress,
        on_validation=on_validation,
    )
    _load(head, BrickCollection.from_pretrained(out / BEST, bricks=name).bricks(), name)
    model.update({name: head})
    model[name].train(model.training).to(next(model.parameters()).device)
    return metrics


def new_head(model: BrickCollection, name: str, task: str) -> HeadRecipe:
    """Return the recipe of a head to add, without its classes; arguments and errors are those of `add_head`.

    A name that the model has, or that cannot be stored beside its bricks, is refused.
    """
    (recipe,) = parse_heads({name: task}, task_variants())
    if "/" in name:
        raise BrickInputError(f"head '{name}'", "a name of letters, digits and underscores", "a path")
    taken = [path for path in model.bricks() if is_inside(path, name)]
    if taken:
        hint = "Choose another name, or train the head that is there."
        raise BrickInputError(f"head '{name}'", "a name that the model does not have", f"the bricks {taken}", hint)
    check_stored_names([*model.bricks(), join(name, "head")], "the model with the new head")
    return recipe


def _label_of(recipe: HeadRecipe, data: LabelledDataset) -> str:
    """Return the label of a data set that a head reads.

    Raises:
        BrickMismatchError: There is none; the problem lists the heads that the data has labels for.
    """
    for label in (recipe.name, recipe.task):
        if label in data.labels:
            return label
    wanted = " or ".join(f"'{label}'" for label in dict.fromkeys([recipe.name, recipe.task]))
    valid = [f"{label}={token}" for label in data.labels for token in _tasks_for(label, data)]
    problem = f"expected labels named {wanted}, found {list(data.labels)}. Heads for this data: {', '.join(valid)}"
    raise BrickMismatchError(f"The data has no labels for the head '{recipe.name}'", [problem])


def _tasks_for(label: str, data: LabelledDataset) -> list[str]:
    """Return the tasks, with a variant where it is not the default, that read labels of a kind."""
    found = []
    for name, task in TASKS.items():
        kinds = {variant: task.kinds(label, variant).get(f"{TARGETS}{label}") for variant in task.variants}
        fitting = [variant for variant, kind in kinds.items() if kind is not None and kind == data.kinds.get(label)]
        found += [name if variant == task.variants[0] else f"{name}-{variant}" for variant in fitting[:1]]
    return found


def _build(model: BrickCollection, recipe: HeadRecipe, data: OneLabel, seed: int) -> dict[str, Any]:
    """Build a head for the classes of a data set, with fresh weights; the random state of the caller stays."""
    spec = provided_by(model.bricks())
    if spec is None:
        expected = "a model with a backbone that declares what it provides"
        raise BrickInputError(f"head '{recipe.name}'", expected, "one without")
    labels = data.labels[recipe.name]
    if labels:
        recipe = replace(recipe, labels=check_class_names(labels, f"'{recipe.name}'"))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return head_bricks(spec, recipe)


def _alone(model: BrickCollection, name: str, head: dict[str, Any]) -> BrickCollection:
    """Return a copy of the bricks that a new head needs, in which all but the head are frozen."""
    whole = BrickCollection({**model.to_dict(), name: head})
    writes = [output for brick in whole[name].bricks().values() for output in brick.output_names]
    needed = {step.path for step in whole.plan(outputs=writes).steps}
    bricks = {path: brick for path, brick in whole.bricks().items() if path in needed or is_inside(path, name)}
    alone = copy.deepcopy(bricks)  # training changes the memory format, and with it the last bits of results
    for path, brick in alone.items():
        if isinstance(brick, BrickModule) and not is_inside(path, name):
            brick.freeze()
    return BrickCollection.of_new(alone)


def _load(head: dict[str, Any], trained: Mapping[str, Brick], name: str) -> None:
    """Copy the weights of trained bricks to those of a head, in the dtype of these, and what they were trained on."""
    for path, brick in flatten(head, name).items():
        stored = trained.get(path)
        if stored is None:
            continue
        if brick.module is not None and stored.module is not None:
            brick.module.load_state_dict(stored.module.state_dict())
        brick.head = stored.head
