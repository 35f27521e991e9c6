"""Every verb as a Python call of the same name; heavy imports happen inside the calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgekit.console import note
from edgekit.errors import EdgekitError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

    from edgekit.bundle import Bundle
    from edgekit.data import Sample
    from edgekit.recipe import Export, Recipe
    from edgekit.report import Report
    from edgekit.runtimes.generate import Answer
    from edgekit.runtimes.session import Session
    from edgekit.workspace import Run, Workspace

# ------------------------------------------------------------------------------------------------- init, distill, demo


def parse_overrides(items: list[str]) -> dict[str, str]:
    """`KEY=VALUE` texts to a mapping.

    Raises:
        RecipeError: one has no `=`.
    """
    pairs = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set {item!r} is not KEY=VALUE.", fix="For example:  --set trainer.steps=400")
        pairs[key.strip()] = value
    return pairs


def init(
    folder: Path, *, teachers: list[str], student: str | None = None, train: str | None = None, test: str | None = None
) -> Path:
    """Write edgekit.yaml in a folder: the demo's recipe, or one for the given models and data.

    Returns:
        Path of the recipe.
    Raises:
        EdgekitError: one is there already, or only some of the four are given.
    """
    from edgekit.files import write_text
    from edgekit.recipe import Data, Export, Model, Recipe, demo_recipe_path, dump_recipe
    from edgekit.workspace import RECIPE_NAME

    path = folder / RECIPE_NAME
    if path.exists():
        raise EdgekitError(f"{path} exists already.", fix="Edit it, or name another folder.")
    if not (teachers or student or train or test):
        write_text(path, demo_recipe_path().read_text(encoding="utf-8"))
        return path
    if not (teachers and student and train and test):
        raise EdgekitError(
            "An own recipe needs --teacher, --student, --train and --test.",
            fix="Leave all four out for the demo's recipe.",
        )
    exports = tuple(Export("onnx", precision) for precision in ("fp32", "fp16", "int8"))
    models = tuple(Model(teacher) for teacher in teachers)
    write_text(path, dump_recipe(Recipe(models, Model(student), Data(train, test), exports=exports)))
    return path


def distill(
    recipe: Path | None = None,
    *,
    name: str | None = None,
    fresh: bool = False,
    overrides: dict[str, str] | None = None,
    workspace: Path | None = None,
) -> dict[str, Any]:
    """Run MASTERS, or go on with the run this recipe has begun.

    Args:
        recipe: YAML file; the workspace's edgekit.yaml, else the built-in demo's, when None.
        name: Folder name of the run.
        fresh: A new run even where this recipe has one.
        overrides: Dotted key -> YAML text.
        workspace: The folder; found from the current one when None.
    Returns:
        The run's manifest.
    """
    from edgekit.distill import processes
    from edgekit.distill.masters import Pipeline
    from edgekit.workspace import Workspace

    processes.join()
    place = Workspace.find(workspace or Path.cwd())
    with processes.main_first():
        resolved, base = _recipe(recipe, place, overrides)
        pipeline = Pipeline(resolved, base)
    run = processes.from_main(lambda: place.open_run(resolved, name=name, fresh=fresh))
    note(f"Run {run.name!r} in {run.folder}")
    processes.from_main(lambda: place.name_latest(run))
    return pipeline.go(run)


def _recipe(recipe: Path | None, place: Workspace, overrides: dict[str, str] | None) -> tuple[Recipe, Path]:
    """The recipe a call means, and the folder that its relative names start from."""
    from edgekit.recipe import demo_recipe_path, load_recipe

    path = recipe or place.recipe_path
    if recipe is None and not path.exists():
        path = demo_recipe_path()
        note(f"No edgekit.yaml in {place.folder}: using the built-in demo recipe (edgekit init writes it out).")
    resolved = load_recipe(path, overrides)
    return resolved, place.folder if path == demo_recipe_path() else path.resolve().parent


def ablate(
    recipe: Path | None = None,
    *,
    arms: list[str] | None = None,
    seeds: int = 3,
    name: str | None = None,
    overrides: dict[str, str] | None = None,
    workspace: Path | None = None,
) -> tuple[dict[str, Any], Path]:
    """Run the arms of an ablation, or go on with it.

    Args:
        recipe: YAML of full MASTERS; the workspace's edgekit.yaml, else the built-in ablation's, when None.
        arms: Names; all when None.
        seeds: Runs of each.
        name: Folder name below runs/; `<recipe name>-ablation` when None.
        overrides: Dotted key -> YAML text.
        workspace: The folder; found from the current one when None.
    Returns:
        The report, and the ablation's folder.
    """
    from edgekit.distill.ablate import Ablation
    from edgekit.recipe import ablation_recipe_path, load_recipe
    from edgekit.workspace import Workspace

    place = Workspace.find(workspace or Path.cwd())
    path = recipe or place.recipe_path
    if recipe is None and not path.exists():
        path = ablation_recipe_path()
        note(f"No edgekit.yaml in {place.folder}: using the built-in ablation of the demo.")
    resolved = load_recipe(path, overrides)
    folder = place.runs / (name or (resolved.name if path == ablation_recipe_path() else f"{resolved.name}-ablation"))
    base = place.folder if path == ablation_recipe_path() else path.resolve().parent
    note(f"Ablation in {folder}")
    return Ablation(resolved, base, folder, arms, seeds).go(), folder


def probe(
    teacher: Path | str,
    *,
    data: str | None = None,
    questions: int = 512,
    step: float = 0.05,
    max_drop: float = 2.0,
    scoring: str | dict[str, str] | None = None,
    scope: str = "all",
    exclude: list[str] | None = None,
    seed: int = 0,
    max_new_tokens: int = 16,
    threads: int | None = None,
    out: Path = Path("edgekit-probe"),
) -> tuple[dict[str, Any], list[Path]]:
    """Measure a teacher at rising mask ratios, and propose r_max.

    Args:
        teacher: Hugging Face folder, hub name or `demo:teacher`.
        data: Data spec; the train data of the workspace's recipe when None, the demo's where there is none.
        questions: How many, drawn uniformly.
        step: Between ratios, in (0, 1).
        max_drop: Accuracy that may be lost before the cliff, points of 100.
        scoring: Metric, or data set -> metric; the recipe's when its data are asked, else exact, when None.
        scope: all, language or vision.
        exclude: Patterns of weight names to leave whole.
        seed: Of the draw.
        max_new_tokens: Longest answer.
        threads: CPU threads.
        out: Folder for `<teacher>.json` and, where matplotlib is installed, `<teacher>.svg`.
    Returns:
        The sweep, and the files written.
    """
    from edgekit.distill.probe import probe_checkpoint
    from edgekit.recipe import demo_recipe_path, load_recipe, resolve_checkpoint
    from edgekit.workspace import Workspace

    place = Workspace.find(Path.cwd())
    path = place.recipe_path if place.recipe_path.exists() else demo_recipe_path()
    if data is None or scoring is None:
        recipe = load_recipe(path)
        if data is None:
            data = recipe.data.train
            note(f"Asking the train questions of {'the demo' if path == demo_recipe_path() else path.name}, {data}.")
            scoring = scoring or recipe.data.scoring
    folder = resolve_checkpoint(str(teacher), place.folder)
    return probe_checkpoint(
        folder,
        data,
        out,
        questions=questions,
        step=step,
        max_drop=max_drop / 100,
        scoring=scoring or "exact",
        scope=scope,
        exclude=tuple(exclude or ()),
        seed=seed,
        max_new_tokens=max_new_tokens,
        threads=threads,
    )


def mask(
    checkpoint: Path | str, ratios: list[float], out: str, *, scope: str = "all", exclude: list[str] | None = None
) -> list[dict[str, Any]]:
    """Write a teacher with its mask in the weights, once for each ratio.

    Args:
        checkpoint: Hugging Face folder, or `demo:teacher`.
        ratios: In [0, 1).
        out: Folder; `{ratio}` in it stands for the ratio.
        scope: "all", "language" or "vision".
        exclude: Patterns of parameter names to leave whole.
    Returns:
        folder, ratio and the number of masked tensors, one row per ratio.
    """
    from typing import get_args

    from edgekit.distill.masking import Scope, write_masked
    from edgekit.recipe import resolve_checkpoint

    if scope not in get_args(Scope):
        raise RecipeError(f"Unknown scope {scope!r}.", fix="There are: all, language, vision.")
    if len(set(ratios)) > 1 and "{ratio}" not in out:
        raise RecipeError(f"--out {out!r} names one folder for {len(ratios)} ratios.", fix="Put {ratio} into it.")
    source, rows = resolve_checkpoint(str(checkpoint)), []
    for ratio in dict.fromkeys(ratios):
        folder = Path(out.replace("{ratio}", f"{ratio:g}"))
        note(f"Writing {folder}")
        record = write_masked(source, ratio, folder, cast("Scope", scope), tuple(exclude or ()))
        rows.append({"folder": str(folder), "ratio": ratio, "tensors": len(record["thresholds"])})
    return rows


def distill_plan(
    recipe: Path | None = None,
    *,
    overrides: dict[str, str] | None = None,
    workspace: Path | None = None,
    flops: float | None = None,
    response_tokens: float | None = None,
    distinct_responses: float | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """What `distill` would need, from configurations and a few questions; no weights are read, nothing is written.

    Args:
        recipe, overrides, workspace: As `distill`.
        flops: FLOP/s of a large matrix product on one device; measured here when None.
        response_tokens: Mean tokens of a response; `max_new_tokens` when None.
        distinct_responses: Mean number of different ones among a question's; all of them when None.
        processes: That share the work, one per GPU.
    Returns:
        parameters, responses, memory_bytes per process, disk_bytes, flops, hours, and the assumptions.
    """
    from edgekit.distill.estimate import estimate
    from edgekit.workspace import Workspace

    resolved, base = _recipe(recipe, Workspace.find(workspace or Path.cwd()), overrides)
    return estimate(
        resolved,
        base,
        flops=flops,
        response_tokens=response_tokens,
        distinct_responses=distinct_responses,
        processes=processes,
    )


def demo_cards() -> dict[str, dict[str, Any]]:
    """The cards of the shipped demo models."""
    from edgekit.demo import cards

    return cards()


def demo_train(role: str, out: Path, work: Path, *, seed: int = 0, threads: int | None = None) -> dict[str, Any]:
    """Train a demo model from scratch; returns its card."""
    from edgekit.distill.demo_models import train

    return train(role, out, work, seed=seed, threads=threads)


def doctor() -> list[dict[str, Any]]:
    """What is ready on this machine, one row per thing."""
    from edgekit.doctor import checks

    return checks()


# --------------------------------------------------------------------------------------------------------------- data


def data_check(spec: str, *, limit: int | None = None, closed_answers: str | None = None) -> dict[str, Any]:
    """Read every row of a data spec, decode its pictures, and list what is wrong.

    Args:
        spec: Data spec.
        limit: The first so many rows.
        closed_answers: `a,b,c`, or a file with one allowed answer a line.
    """
    from edgekit.data.check import allowed_answers, check, row_notes

    allowed = allowed_answers(closed_answers) if closed_answers is not None else None
    return check(spec, limit=limit, closed_answers=allowed, on_row=row_notes(spec, limit)).as_dict()


def data_show(spec: str, *, count: int = 5) -> list[dict[str, Any]]:
    """The first samples of a data spec with the sizes of their pictures."""
    from edgekit.data import samples

    return [
        {
            "id": sample.id,
            "question": sample.text,
            "answer": sample.answer,
            "answers": list(sample.answers),
            "dataset": sample.dataset,
            "messages": sample.messages,
            "images": [
                {"width": image.width, "height": image.height, "mode": image.mode}
                for image in (ref.open() for ref in sample.images)
            ],
            "location": sample.location,
        }
        for sample in samples(spec, limit=count, need_answer=False)
    ]


# ----------------------------------------------------------------------------------- export, verify, bench, run, lists


def export(
    checkpoint: Path | str | None = None,
    *,
    targets: list[str],
    precisions: list[str] | None = None,
    out: Path | None = None,
    sizes: list[tuple[int, int]] | None = None,
    data: str | None = None,
    samples: int = 32,
    calibrate: int | None = None,
    calibration_data: str | None = None,
    with_genai: bool | None = None,
    replace: bool = True,
) -> list[Bundle]:
    """Export a checkpoint, or the student of the latest run, to each target and precision.

    Args:
        checkpoint: Hugging Face folder; the latest run's student when None.
        targets: Names of targets.
        precisions: Common names; what the run's recipe says, else fp32, when None.
        out: Folder of the one bundle, or of several; in the run, or beside the current folder, when None.
        sizes: Picture sizes (width, height) in pixels, where the family has a choice; its own when None.
        data: Questions for the parity run; the run's test questions when None.
        samples: How many of them.
        calibrate: How many questions int8-static is calibrated with; the recipe's, else 64, when None.
        calibration_data: Those questions; the run's train questions when None.
        with_genai: Also write what onnxruntime-genai loads; as the recipe says, else not, when None.
        replace: Put a new bundle in the place of an old one.
    """
    from edgekit.data import samples as read_samples
    from edgekit.export.bundling import check_request, export_checkpoint, needs_calibration
    from edgekit.precision import canonical, folder_name
    from edgekit.recipe import resolve_checkpoint

    run = _latest_run() if checkpoint is None else None
    given = run.student if run is not None else resolve_checkpoint(str(checkpoint))
    jobs = [
        replace_fields(item, precision=canonical(item.precision))
        for name in targets
        for item in _exports(run, name, precisions, calibrate, with_genai)
    ]
    modules = [check_request(job.target, job.precision) for job in jobs]
    for job in jobs:
        if job.genai and job.target != "onnx":
            raise EdgekitError(f"Target {job.target!r} has nothing for onnxruntime-genai.", fix="Use --target onnx.")
    if run is not None:
        data = data or run.recipe().data.test
        calibration_data = calibration_data or run.recipe().data.train
    shown = [
        _calibration(calibration_data, job.calibrate) if needs_calibration(module, job.precision) else []
        for job, module in zip(jobs, modules, strict=True)
    ]
    questions = list(read_samples(data, limit=samples, need_answer=False)) if data else []
    lineage: dict[str, Any] = {}
    if run is not None:
        teachers = run.manifest()["inputs"]["teachers_sha256"]
        lineage = {"run": run.name, "teacher_sha256": teachers[-1]}
    bundles = []
    for job, calibration in zip(jobs, shown, strict=True):
        folder = given if run is None else _student_for(run, job.target, job.precision)
        name = f"{job.target}-{folder_name(job.precision)}"
        if out is not None:
            place = out / name if len(jobs) > 1 else out
        else:
            place = run.bundles / name if run is not None else Path(f"{folder.name}-{name}")
        note(f"Exporting {folder} to {place}")
        bundles.append(
            export_checkpoint(
                folder,
                job.target,
                job.precision,
                place,
                sizes=sizes,
                samples=questions,
                calibration=calibration,
                with_genai=job.genai,
                replace=replace,
                **lineage,
            )
        )
    return bundles


def _calibration(data: str | None, count: int) -> list[Sample]:
    """The questions an export is calibrated with.

    Raises:
        EdgekitError: no data are named, and there is no run to take them from.
    """
    from edgekit.data import samples

    if data is None:
        raise EdgekitError(
            "int8-static needs questions to calibrate with, and a checkpoint alone names none.",
            fix="Name some, of the train kind:  --calibration-data SPEC",
        )
    return list(samples(data, limit=count, need_answer=False))


def _student_for(run: Run, target: str, precision: str) -> Path:
    """The student prepared for just the weights that this export writes, where the run has one; else the student."""
    from edgekit.export import TARGETS
    from edgekit.quantisation import ONNX

    prepared = run.quantised_student(precision)
    scheme = getattr(TARGETS.load(target), "SCHEMES", {}).get(precision)
    if scheme is None or scheme != ONNX.get(precision) or not prepared.is_dir():
        return run.student
    note(f"Taking {prepared.name}, the student after quantisation-aware distillation for {precision}.")
    return prepared


def _exports(
    run: Run | None, target: str, precisions: list[str] | None, calibrate: int | None, genai: bool | None
) -> list[Export]:
    """What to export to a target: as asked, and as the run's recipe says where nothing is asked."""
    from edgekit.recipe import Export

    written = [item for item in run.recipe().exports if item.target == target] if run is not None else []
    if precisions:
        written = [next((x for x in written if x.precision == name), Export(target, name)) for name in precisions]
    return [
        replace_fields(
            item,
            calibrate=item.calibrate if calibrate is None else calibrate,
            genai=item.genai if genai is None else genai,
        )
        for item in written or [Export(target)]
    ]


def _latest_run(*, finished: bool = True) -> Run:
    from edgekit.workspace import Workspace

    run = Workspace.find(Path.cwd()).latest_run()
    note(f"Using the latest run, {run.name!r}.")
    if finished and not run.finished:
        raise EdgekitError(f"The run {run.name!r} is not finished.", fix="Go on with it:  edgekit distill")
    return run


def verify(
    bundle: Path,
    *,
    reference: Path | str | None = None,
    data: str | None = None,
    samples: int = 32,
    threads: int = 1,
    attribute: bool = False,
) -> dict[str, Any]:
    """Check a bundle's files, and run it beside its student; also written to parity.json in the bundle.

    Args:
        bundle: Folder.
        reference: The student's checkpoint; found beside the bundle's run when None.
        data: Questions; the run's test questions, else stock questions, when None.
        samples: How many.
        threads: CPU threads of each side.
        attribute: Find out which part costs what; the target's fp32 export is made for it and thrown away.
    Returns:
        `edgekit.parity.Parity` as JSON: figures, bars, and `passed`.
    """
    import tempfile

    from edgekit.runtimes.verify import verify_bundle

    found = _reference(reference, [bundle])
    if reference is None and (made_from := _made_from(bundle)) is not None:
        found = made_from
    questions = data or _run_data([bundle])
    if not attribute:
        return verify_bundle(bundle, found, questions, samples, threads=threads)
    with tempfile.TemporaryDirectory(prefix="edgekit-verify-") as place:
        plain, why = _plain_export(bundle, found, Path(place) / "fp32")
        return verify_bundle(
            bundle, found, questions, samples, threads=threads, attribution=True, plain=plain, note=why
        )


def _plain_export(folder: Path, reference: Path | None, out: Path) -> tuple[Path | None, str]:
    """The bundle's checkpoint in the same target and sizes in fp32, or why there is none."""
    from edgekit.bundle import Bundle
    from edgekit.checkpoint import checkpoint_hash
    from edgekit.export import TARGETS
    from edgekit.export.bundling import export_checkpoint

    manifest = Bundle.load(folder).manifest
    if manifest.precision.common == "fp32":
        return None, "the bundle is fp32: nothing of it is quantised"
    if reference is None or checkpoint_hash(reference) != manifest.student_sha256:
        return None, "no checkpoint to export"  # the comparison itself says so in full
    if "fp32" not in TARGETS.load(manifest.target).PRECISIONS:
        return None, f"the target {manifest.target!r} has no fp32"
    sizes = manifest.preprocessing.get("sizes")
    note("Exporting the checkpoint in fp32, for the share of quantisation.")
    export_checkpoint(reference, manifest.target, "fp32", out, sizes=sizes and [(w, h) for w, h in sizes])
    return out, ""


def bench(
    bundles: list[Path] | None = None,
    *,
    reference: Path | str | None = None,
    data: str | None = None,
    limit: int | None = None,
    threads: int | None = None,
    device: str = "host",
    out: Path | None = None,
    bars: dict[str, float | int | None] | None = None,
) -> tuple[Report, Path]:
    """Measure bundles beside the PyTorch reference.

    Args:
        bundles: Folders; all of the latest run when None.
        reference: The student's checkpoint; found from the bundles' run when None.
        data: Questions; the run's when None.
        limit: The first so many; the recipe's `bench.limit` when None, 0 for all.
        threads: Of each runtime; the recipe's when None.
        device: Where.
        out: Folder of the report; `reports/bench` of the run when None.
        bars: Fields of `Gates` that override the recipe's.
    Returns:
        The report and its folder.
    """
    from dataclasses import replace

    from edgekit.recipe import Bench, Gates
    from edgekit.runtimes.bench import Settings
    from edgekit.runtimes.bench import bench as measure

    run = _latest_run() if bundles is None else _run_of(bundles)
    if bundles is None and run is not None:
        bundles = sorted(path for path in run.bundles.glob("*") if (path / "manifest.json").exists())
        if not bundles:
            raise EdgekitError(
                f"The run {run.name!r} has no bundles yet.", fix="Make one:  edgekit export --target onnx"
            )
        note(f"Measuring {', '.join(path.name for path in bundles)} beside PyTorch.")
    recipe = run.recipe() if run is not None else None
    usual = recipe.bench if recipe is not None else Bench()
    spec = data or usual.data or (recipe.data.test if recipe is not None else None)
    if spec is None:
        raise EdgekitError("No questions to measure on.", fix="Name some:  --data questions.jsonl")
    settings = Settings(
        data=spec,
        scoring=recipe.data.scoring if recipe is not None else "exact",
        limit=usual.limit if limit is None else (limit or None),
        threads=threads or usual.threads,
        warmup=usual.warmup,
        max_new_tokens=usual.max_new_tokens,
    )
    given = {key: value for key, value in (bars or {}).items() if value is not None}
    gates = replace(recipe.gates if recipe is not None else Gates(), **given)  # type: ignore[arg-type]
    place = out or (run.reports / "bench" if run is not None else Path("edgekit-bench"))
    name = run.name if run is not None else None
    report = measure(
        bundles or [],
        _reference(reference, bundles or []),
        settings,
        place,
        bars=gates,
        device=device,
        run=name,
        prepared=run.students()[1:] if run is not None and reference is None else (),
    )
    return report, place


def _run_of(bundles: list[Path]) -> Run | None:
    """The run whose bundles/ folder the first bundle lies in."""
    from edgekit.workspace import Run

    folder = bundles[0].resolve().parent.parent if bundles else None
    return Run(folder) if folder is not None and (folder / "recipe.yaml").exists() else None


def _reference(given: Path | str | None, bundles: list[Path]) -> Path | None:
    from edgekit.recipe import resolve_checkpoint

    if given is not None:
        return resolve_checkpoint(str(given))
    run = _run_of(bundles)
    return run.student if run is not None and run.student.is_dir() else None


def _made_from(bundle: Path) -> Path | None:
    """The student of the bundle's run that it was exported from: one made for a precision is not the first one."""
    from edgekit.bundle import Bundle
    from edgekit.checkpoint import checkpoint_hash

    run = _run_of([bundle])
    students = run.students() if run is not None else []
    if len(students) < 2:
        return None
    wanted = Bundle.load(bundle, verify=False).manifest.student_sha256
    return next((folder for folder in students if checkpoint_hash(folder) == wanted), None)


def _run_data(bundles: list[Path]) -> str | None:
    run = _run_of(bundles)
    return run.recipe().data.test if run is not None else None


def run(
    model: Path | str,
    prompt: str,
    images: list[Path],
    *,
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stops: list[str] | None = None,
    threads: int = 1,
    on_text: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Answer a question with a bundle or a checkpoint.

    Args:
        model: Bundle, Hugging Face folder, or `demo:student`.
        prompt: The question.
        images: Files, in order; turned upright by their EXIF tag, as transformers does when it loads a file.
        max_new_tokens: Longest answer.
        temperature: 0 is greedy.
        top_p, top_k, repetition_penalty, seed: Of sampling; the penalty counts for greedy answers too.
        stops: Texts that end the answer.
        threads: CPU threads.
        on_text: Told each piece of text as it comes.
    Returns:
        text, token_ids, finish (eos, stop or length), runtime and timings in milliseconds.
    """
    from edgekit.chat import question
    from edgekit.runtimes.generate import answer
    from edgekit.runtimes.sampling import Sampling, chooser

    sampling = Sampling(temperature, top_p, top_k, repetition_penalty, seed)
    pictures = [_picture(path) for path in images]
    name, session = _open(model, threads)
    said = answer(
        session, question(prompt, len(pictures)), pictures, max_new_tokens=max_new_tokens,
        choose=chooser(sampling, session.vocab_size), stops=stops or [], on_text=on_text,
    )  # fmt: skip
    session.close()
    return _as_dict(said, name)


def chat(
    model: Path | str,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stops: list[str] | None = None,
    threads: int = 1,
) -> Callable[..., dict[str, Any]]:
    """A conversation whose cache is kept from turn to turn.

    Args:
        model, max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed, stops, threads: As for `run`.
    Returns:
        `say(text, images=[], on_text=None)`, which gives what `run` gives; images are files.
    """
    from edgekit.runtimes.generate import Chat
    from edgekit.runtimes.sampling import Sampling, chooser

    sampling = Sampling(temperature, top_p, top_k, repetition_penalty, seed)
    name, session = _open(model, threads)
    talk = Chat(session, max_new_tokens=max_new_tokens, choose=chooser(sampling, session.vocab_size), stops=stops or [])

    def say(text: str, images: Sequence[Path] = (), on_text: Callable[[str], None] | None = None) -> dict[str, Any]:
        return _as_dict(talk.say(text, [_picture(path) for path in images], on_text=on_text), name)

    return say


def _open(model: Path | str, threads: int) -> tuple[str, Session]:
    from edgekit.recipe import resolve_checkpoint
    from edgekit.runtimes import RUNTIMES, runtime_for

    folder = resolve_checkpoint(str(model))
    name = runtime_for(folder)
    return name, RUNTIMES.load(name).open_session(folder, threads)


def _picture(path: Path) -> Image:
    from edgekit.data import ImageRef
    from edgekit.pictures import upright

    return upright(ImageRef(path=path).open())


def _as_dict(said: Answer, runtime: str) -> dict[str, Any]:
    return {
        "text": said.text,
        "token_ids": said.token_ids,
        "finish": said.finish,
        "runtime": runtime,
        "timings": said.timings.as_dict(),
    }


def targets() -> list[dict[str, Any]]:
    """Every export target: its precisions, where it can be exported, what runs it, whether it is ready here."""
    import platform
    from importlib.util import find_spec

    from edgekit.export import TARGETS

    rows = []
    for name in TARGETS.names():
        module = TARGETS.load(name)
        missing = [package for package in module.PACKAGES if find_spec(package) is None]
        here = platform.system() in module.HOSTS
        rows.append(
            {
                "target": name,
                "precisions": list(module.PRECISIONS),
                "hosts": list(module.HOSTS),
                "runtimes": list(module.RUNTIMES),
                "ready": here and not missing,
                "missing": f"pip install 'edgekit[{module.EXTRA}]'" if missing else "" if here else "another system",
            }
        )
    return rows


def matrix(
    targets: list[str] | None = None,
    families: list[str] | None = None,
    precisions: list[str] | None = None,
    on_row: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Export a tiny random checkpoint of each family to each target and precision, run it, compare it with PyTorch.

    Nothing is remembered from elsewhere: each row is measured by this call, on this machine.

    Args:
        targets: Names; all when None.
        families: Names of edgekit.demo.tiny; all when None.
        precisions: Common names; all that a target has when None.
        on_row: Told each row as it is measured.
    Returns:
        Rows of family, target, precision, passed, checks (figures with their bars) and seconds; `why` instead of
        checks where there is nothing to measure, passed None where that is for want of a package.
    """
    import tempfile

    from edgekit.demo import tiny
    from edgekit.export import TARGETS

    chosen = families or list(tiny.NAMES)
    if wrong := [name for name in chosen if name not in tiny.NAMES]:
        raise EdgekitError(f"There is no tiny checkpoint of {wrong[0]!r}.", fix=f"There are: {', '.join(tiny.NAMES)}.")
    jobs = [
        (family, target, precision)
        for family in chosen
        for target in targets or TARGETS.names()
        for precision in precisions or TARGETS.load(target).PRECISIONS
    ]
    rows = []
    with tempfile.TemporaryDirectory() as made:
        for number, job in enumerate(jobs, 1):
            note(f"{number} of {len(jobs)}: {' '.join(job)}")
            rows.append(_matrix_row(*job, Path(made)))
            if on_row is not None:
                on_row(rows[-1])
    return rows


def _matrix_row(family: str, target: str, precision: str, folder: Path) -> dict[str, Any]:
    import time

    from edgekit.bars import ALWAYS, judge, random_bars_of
    from edgekit.demo.tiny import write_checkpoint
    from edgekit.errors import MissingExtraError
    from edgekit.export.bundling import drawn_samples, export_checkpoint
    from edgekit.runtimes.verify import verify_bundle

    row: dict[str, Any] = {"family": family, "target": target, "precision": precision}
    started = time.monotonic()
    checkpoint = folder / family
    try:
        if not checkpoint.exists():
            write_checkpoint(family, checkpoint, seed=0)
        place = folder / "-".join(row.values())
        bundle = export_checkpoint(checkpoint, target, precision, place, calibration=drawn_samples(16))
        figures = verify_bundle(bundle.folder, checkpoint, None, 8)
    except MissingExtraError as error:
        return {**row, "passed": None, "why": " ".join(str(error).split())}
    except EdgekitError as error:
        return {**row, "passed": False, "why": " ".join(str(error).split())}
    checks = judge(figures, {**ALWAYS, **random_bars_of(precision)})
    passed = all(check["held"] for check in checks.values())
    return {**row, "passed": passed, "checks": checks, "seconds": time.monotonic() - started}


def devices() -> list[dict[str, Any]]:
    """Every device, whether it can be used now, and why not."""
    from edgekit.devices import DEVICES

    rows = []
    for name in DEVICES.names():
        ready, detail = DEVICES.load(name).reach()
        rows.append({"device": name, "ready": ready, "detail": detail})
    return rows
