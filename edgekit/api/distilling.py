"""init, distill, ablate, probe, mask: from teachers to a student."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgekit import schema
from edgekit.api import arguments
from edgekit.api.arguments import Folder, Overrides, PathLike, Texts, checked, told
from edgekit.api.distilling_results import Ablated, Distilled, DistillPlan, Gain, Masked, Probed
from edgekit.api.settings import PlanSettings, ProbeSettings
from edgekit.console import note
from edgekit.errors import EdgekitError, RecipeError

if TYPE_CHECKING:
    from edgekit.recipe.model import Recipe
    from edgekit.workspace import Workspace


def parse_overrides(items: Texts) -> dict[str, str]:
    """`KEY=VALUE` texts to a mapping.

    Args:
        items: One or several.

    Raises:
        RecipeError: one has no `=`, or two disagree.
    """
    pairs: dict[str, str] = {}
    for item in arguments.texts(items, "items"):
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set {item!r} is not KEY=VALUE.", fix="For example:  --set trainer.steps=400")
        if pairs.get(key.strip(), value) != value:
            raise RecipeError(f"--set {key.strip()} is given twice: {pairs[key.strip()]} and {value}.")
        pairs[key.strip()] = value
    return pairs


@checked
def init(
    folder: PathLike = ".",
    *,
    teachers: Folder | Iterable[Folder] = (),
    student: Folder | None = None,
    train: str | None = None,
    test: str | None = None,
    masters: bool = False,
) -> Path:
    """Write edgekit.yaml in a folder: the demo's recipe, or one for the given models and data.

    The latter is plain distillation by forward KL, which is what docs/ablation.md recommends; or the paper's.

    Args:
        folder: Text or Path.
        teachers: One model or several, smallest first: folders or hub names.
        student: A model.
        train, test: Data specs. What is here as a file or a folder is written with its whole path, for the recipe
            may be used from another folder.
        masters: The paper's recipe for them: a mask, rewards and JSD.

    Returns:
        Path of the recipe.

    Raises:
        EdgekitError: one is there already, or only some of the four are given.
    """
    from edgekit.files import write_text
    from edgekit.recipe.model import Data, Export, Mask, Masters, Model, Recipe
    from edgekit.recipe.reading import demo_recipe_path, dump_recipe
    from edgekit.workspace import RECIPE_NAME

    taught = arguments.models(teachers, "teachers")
    path = arguments.path(folder, "folder") / RECIPE_NAME
    if path.exists():
        raise EdgekitError(f"{path} exists already.", fix="Edit it, or name another folder.")
    if not (taught or student or train or test) and not masters:
        write_text(path, demo_recipe_path().read_text(encoding="utf-8"))
        return path
    if not (taught and student and train and test):
        raise EdgekitError(
            "An own recipe needs --teacher, --student, --train and --test.",
            fix="Leave all four out for the demo's recipe.",
        )
    exports = tuple(Export("onnx", precision) for precision in ("fp32", "fp16", "int8"))
    models = tuple(Model(_placed(teacher)) for teacher in taught)
    small = Model(_placed(arguments.model(student, "student")))
    data = Data(_placed(train), _placed(test))
    made = Recipe(models, small, data, exports=exports)
    if not masters:
        plain = Masters(mask=Mask(r_max=0.0), grpo_weight=0.0)
        made = dataclasses.replace(made, masters=plain, objective={"forward_kl": 1.0})
    write_text(path, dump_recipe(made))
    return path


def _placed(name: str) -> str:
    """A file or folder of the current folder by its whole path; any other name as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


@checked
def distill(
    recipe: PathLike | None = None,
    *,
    name: str | None = None,
    fresh: bool = False,
    overrides: Overrides | None = None,
    workspace: PathLike | None = None,
) -> Distilled:
    """Run MASTERS, or go on with the run this recipe has begun.

    Args:
        recipe: YAML file, text or Path, or `demo:scenes`; the workspace's edgekit.yaml, else the built-in demo's, when
            None.
        name: Folder name of the run.
        fresh: A new run even where this recipe has one.
        overrides: Dotted key -> the setting: a number, a boolean, None, a list or a mapping; a text is read as YAML.
        workspace: The folder, text or Path; found from the current one when None.

    Returns:
        The run's folder, its manifest, and the accuracy before and after.
    """
    from edgekit.distill import processes
    from edgekit.distill.masters import Pipeline

    processes.join()
    place = _workspace(workspace)
    with processes.main_first():
        resolved, base = _recipe(recipe, place, overrides)
        pipeline = Pipeline(resolved, base)
    run = processes.from_main(lambda: place.open_run(resolved, name=name, fresh=fresh))
    note(f"Run {run.name!r} in {run.folder}")
    processes.from_main(lambda: place.name_latest(run))
    return distilled(run.folder, pipeline.go(run))


def distilled(folder: Path, manifest: dict[str, Any]) -> Distilled:
    """The result of a finished run, from its manifest."""
    problems: list[str] = []
    accuracy = schema.read(Gain, manifest["accuracy"], problems, "accuracy")
    kept = schema.read(Gain, manifest["retention"], problems, "retention") if "retention" in manifest else None
    if accuracy is None or problems:
        raise EdgekitError(
            f"{folder / 'manifest.json'} is not as `edgekit distill` writes it.",
            why=schema.listed(problems),
            fix="Start a new run:  edgekit distill --fresh",
        )
    return Distilled(folder, manifest, accuracy, kept, manifest["student_sha256"])


def _workspace(folder: PathLike | None) -> Workspace:
    from edgekit.workspace import Workspace

    return Workspace.find(Path.cwd() if folder is None else arguments.path(folder, "workspace"))


def _recipe(recipe: PathLike | None, place: Workspace, overrides: Overrides | None) -> tuple[Recipe, Path]:
    """The recipe a call means, and the folder that its relative names start from."""
    from edgekit.recipe.reading import demo_recipe_path, load_recipe

    path, built_in = _recipe_path(recipe, place)
    if recipe is None and not path.exists():
        path, built_in = demo_recipe_path(), True
        note(f"No edgekit.yaml in {place.folder}: using the built-in demo recipe (edgekit init writes it out).")
    base = place.folder if built_in else path.resolve().parent
    return load_recipe(path, arguments.overrides(overrides), base=base), base


def _recipe_path(recipe: PathLike | None, place: Workspace) -> tuple[Path, bool]:
    """The file a call means, the workspace's for None, and whether it is one of edgekit's own."""
    from edgekit.demo import recipe_named

    if recipe is None:
        return place.recipe_path, False
    named = recipe_named(str(recipe))
    return (arguments.path(recipe, "recipe"), False) if named is None else (named, True)


@checked
def ablate(
    recipe: PathLike | None = None,
    *,
    arms: Texts | None = None,
    seeds: int = 3,
    learning_rates: float | Iterable[float] = (),
    tuning_questions: int = 512,
    name: str | None = None,
    overrides: Overrides | None = None,
    workspace: PathLike | None = None,
) -> Ablated:
    """Run the arms of an ablation, or go on with it.

    Args:
        recipe: YAML of full MASTERS, text or Path, or `demo:scenes`; the workspace's edgekit.yaml, else the built-in
            ablation's, when None.
        arms: One name or several; the paper's table and two other methods when None.
        seeds: Runs of each.
        learning_rates: Several, of which each arm takes the one that is best on held-out train questions; the recipe's
            for all when empty.
        tuning_questions: Held out for that, at most.
        name: Folder name below runs/; `<recipe name>-ablation` when None.
        overrides, workspace: As `distill`.

    Returns:
        The ablation's folder, and its report.
    """
    from edgekit.distill.ablate import Ablation
    from edgekit.distill.recommend import Start, settings_between
    from edgekit.recipe.reading import ablation_recipe_path, demo_recipe_path, load_recipe

    place, changed = _workspace(workspace), arguments.overrides(overrides)
    path, built_in = _recipe_path(recipe, place)
    start = Start(None if recipe is None else str(recipe), changed)
    if recipe is None and not path.exists():
        path, built_in = ablation_recipe_path(), True
        note(f"No edgekit.yaml in {place.folder}: using the built-in ablation of the demo.")
        # `edgekit distill` has no such recipe; there it is the demo's with other settings.
        start = Start(None, {**settings_between(load_recipe(demo_recipe_path()), load_recipe(path)), **changed})
    base = place.folder if built_in else path.resolve().parent
    resolved = load_recipe(path, changed, base=base)
    folder = place.runs / (name or (resolved.name if path == ablation_recipe_path() else f"{resolved.name}-ablation"))
    note(f"Ablation in {folder}")
    chosen = None if arms is None else arguments.texts(arms, "arms")
    rates = arguments.reals(learning_rates, "learning_rates")
    made = Ablation(resolved, base, folder, chosen, seeds, rates=rates, held_out=tuning_questions, start=start)
    return Ablated(folder, made.go())


@told(ProbeSettings)
def probe(asked: ProbeSettings) -> Probed:
    """Measure a teacher at rising mask ratios, and propose r_max.

    Returns:
        The sweep, and the files written.
    """
    from edgekit.checkpoint.folder import resolve_checkpoint
    from edgekit.distill.probe import probe_checkpoint
    from edgekit.recipe.reading import demo_recipe_path, load_recipe

    place = _workspace(None)
    path = place.recipe_path if place.recipe_path.exists() else demo_recipe_path()
    data, scoring = asked.data, asked.scoring
    if data is None or scoring is None:
        recipe = load_recipe(path)
        if data is None:
            data = recipe.data.train
            note(f"Asking the train questions of {'the demo' if path == demo_recipe_path() else path.name}, {data}.")
            scoring = scoring or recipe.data.scoring
    folder = resolve_checkpoint(arguments.model(asked.teacher, "teacher"), place.folder)
    left = tuple(arguments.texts(asked.exclude or (), "exclude"))
    sweep, files = probe_checkpoint(
        folder, data, arguments.path(asked.out, "out"), scoring or "exact", dataclasses.replace(asked, exclude=left)
    )
    return Probed(sweep, files)


@checked
def mask(
    checkpoint: Folder,
    ratios: float | Iterable[float],
    out: PathLike,
    *,
    scope: str = "all",
    exclude: Texts | None = None,
) -> list[Masked]:
    """Write a teacher with its mask in the weights, once for each ratio.

    Args:
        checkpoint: Hugging Face folder, or `demo:teacher`.
        ratios: One or several, in [0, 1).
        out: Folder, text or Path; `{ratio}` in it stands for the ratio.
        scope: "all", "language" or "vision".
        exclude: One pattern or several of parameter names to leave whole.

    Returns:
        One for each ratio.
    """
    from typing import get_args

    from edgekit.checkpoint.folder import resolve_checkpoint
    from edgekit.distill.masking import Scope, write_masked

    if scope not in get_args(Scope):
        raise RecipeError(f"Unknown scope {scope!r}.", fix="There are: all, language, vision.")
    shares, place = arguments.reals(ratios, "ratios"), str(arguments.path(out, "out"))
    if len(set(shares)) > 1 and "{ratio}" not in place:
        raise RecipeError(f"--out {place!r} names one folder for {len(shares)} ratios.", fix="Put {ratio} into it.")
    source, rows = resolve_checkpoint(arguments.model(checkpoint, "checkpoint")), []
    left = tuple(arguments.texts(exclude or (), "exclude"))
    for ratio in dict.fromkeys(shares):
        folder = Path(place.replace("{ratio}", f"{ratio:g}"))
        note(f"Writing {folder}")
        record = write_masked(source, ratio, folder, cast("Scope", scope), left)
        rows.append(Masked(str(folder), ratio, len(record["thresholds"])))
    return rows


@told(PlanSettings)
def distill_plan(asked: PlanSettings) -> DistillPlan:
    """What `distill` would need, from configurations and a few questions; no weights are read, nothing is written.

    Returns:
        parameters, responses, memory_bytes per process, disk_bytes, flops, hours, and the assumptions.
    """
    from edgekit.distill.estimate import estimate

    resolved, base = _recipe(asked.recipe, _workspace(asked.workspace), asked.overrides)
    return DistillPlan(**estimate(resolved, base, asked))
