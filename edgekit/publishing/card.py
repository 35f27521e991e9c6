"""A model card from what a run wrote: nothing in it is typed in by hand, and what is not known is said to be so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.report.text import escape
from edgekit.yaml_text import write_yaml

if TYPE_CHECKING:
    from edgekit.bundle import Bundle
    from edgekit.report.model import Report, Row
    from edgekit.workspace import Run

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
FENCE = "`" * 3
PRIVATE = frozenset({"url", "judge_url", "api_key_env", "judge_api_key_env"})
"""Settings whose values are of this machine's surroundings."""
NOT_ASKED = "What it says about anything else than such questions was not measured, nor whether it is harmless."


@dataclass(frozen=True)
class Benchmark:
    """The hub's name for the test questions, which only who publishes can know.

    Attributes:
        dataset: `org/name` of the benchmark.
        task: Its task.
    """

    dataset: str
    task: str = "default"


@dataclass(frozen=True)
class Card:
    """A card and what goes with it.

    Attributes:
        text: README.md.
        results: Name -> text of the files below `.eval_results/`, as the hub reads them.
        bundles: Those in the card, by the folder they are published in.
    """

    text: str
    results: Mapping[str, str] = field(default_factory=dict)
    bundles: Mapping[str, Path] = field(default_factory=dict)


def model_card(
    run: Run,
    bundles: Sequence[Bundle] = (),
    report: Report | None = None,
    *,
    license_id: str | None = None,
    benchmark: Benchmark | None = None,
) -> Card:
    """The card of a finished run's student and bundles.

    Args:
        run: Finished.
        bundles: Sealed ones of it.
        report: Of `edgekit bench` on them; rows are found by the bundle's hash.
        license_id: As the hub names it; left out of the card when None.
        benchmark: Where accuracy goes on the hub; nowhere when None.

    Raises:
        EdgekitError: a bundle is of another student, or the run's manifest lacks something.
    """
    from jinja2 import Environment, StrictUndefined

    manifest = public(run.manifest())
    students = {manifest.get("student_sha256"), *_prepared(run)}
    for bundle in bundles:
        if bundle.manifest.student_sha256 not in students:
            raise EdgekitError(
                f"{bundle.folder} is of another student than the run {run.name!r}.",
                why=f"Its manifest says {str(bundle.manifest.student_sha256)[:12]}.",
                fix="Name bundles of this run.",
            )
    rows = {row.bundle: row for row in report.rows} if report is not None else {}
    told = [_bundle(bundle, rows.get(bundle.hash)) for bundle in bundles]
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.globals |= {"percent": _percent, "points": _points, "span": _span}
    source = (files("edgekit.templates") / "card.md").read_text(encoding="utf-8")
    values = {
        "name": escape(run.name),
        "parameters": _parameters(run.student),
        "family": escape(_family(run.student)),
        "teachers": [escape(str(one["checkpoint"])) for one in manifest["recipe"]["teachers"]],
        "versions": manifest["versions"],
        "accuracy": _escaped(manifest.get("accuracy")),
        "retention": _escaped(manifest.get("retention")),
        "scoring": escape(str(manifest["recipe"]["data"]["scoring"])),
        "bundles": told,
        "bench": _bench(report, told),
        "made": _made(manifest),
        "recipe": write_yaml(manifest["recipe"]).rstrip().replace(FENCE, "'''"),
        "limits": _limits(manifest, bundles, rows),
        "use": _use(bundles),
    }
    text = _front_matter(run, manifest, license_id) + environment.from_string(source).render(values)
    text = re.sub(r"\n{3,}", "\n\n", text)
    named = {f"bundles/{bundle.folder.name}": bundle.folder for bundle in bundles}
    return Card(text, _results(manifest, benchmark), named)


def public(value: Any, key: str = "") -> Any:
    """A manifest for everybody: of paths of this machine the last name, of servers and keys nothing."""
    if isinstance(value, Mapping):
        return {name: public(below, str(name)) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [public(one, key) for one in value]
    if not isinstance(value, str) or not value:
        return value
    if key in PRIVATE:
        return "not published"
    return value.rsplit("/", 1)[-1] if value.startswith(("/", "~", "./", "../")) else value


# ------------------------------------------------------------------------------------------------------------ the parts


def _prepared(run: Run) -> set[str]:
    from edgekit.checkpoint.folder import checkpoint_hash

    return {checkpoint_hash(folder) for folder in run.students()[1:]}


def _parameters(student: Path) -> int:
    from edgekit.checkpoint.weights import stored_tensors

    return sum(_product(one.shape) for one in stored_tensors(student))


def _product(shape: Sequence[int]) -> int:
    whole = 1
    for edge in shape:
        whole *= edge
    return whole


def _family(student: Path) -> str:
    from edgekit.checkpoint.configuration import read_config

    return str(read_config(student)["model_type"])


def _front_matter(run: Run, manifest: Mapping[str, Any], license_id: str | None) -> str:
    """What the hub reads: the library, the task, what it came from where that has a name there, and the data."""
    from huggingface_hub import ModelCardData

    recipe = manifest["recipe"]
    student = str(recipe["student"]["checkpoint"])
    data = str(recipe["data"]["train"])
    given = ModelCardData(
        license=license_id,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=student if HUB_NAME.fullmatch(student) else None,
        datasets=[data.split(":")[1]] if data.startswith("datasets:") else None,
        tags=["edgekit", "knowledge-distillation", _family(run.student)],
        model_name=run.name,
        ignore_metadata_errors=False,
    )
    return f"---\n{given.to_yaml()}\n---\n\n"


def _bundle(bundle: Bundle, row: Row | None) -> dict[str, Any]:
    told = bundle.manifest
    parity = told.parity or {}
    held = ", ".join(
        f"{name.replace('_', ' ')} {parity[key]:{form}}"
        for key, name, form in (
            ("greedy_identical", "greedy_identical", ".1%"),
            ("top1_agreement", "best_token", ".2%"),
            ("logits_max_abs", "logits_within", ".2g"),
        )
        if parity.get(key) is not None
    )
    seen = row if row is not None and row.status == "ok" else None
    return {
        "name": escape(told.name),
        "folder": f"bundles/{bundle.folder.name}",
        "target": told.target,
        "precision": escape(told.precision.common),
        "bytes": bundle.size_bytes,
        "hash": bundle.hash,
        "accuracy": "not measured" if seen is None else f"{_percent(seen.accuracy)} {_span(seen.accuracy_ci95)}",
        "delta": "" if seen is None else f"{_points(seen.accuracy_delta)} {_span(seen.accuracy_delta_ci95, '+.2f')}",
        "agreement": "" if seen is None or seen.token_agreement is None else f"{seen.token_agreement:.2%}",
        "run_by": "" if seen is None else escape(f"{seen.runtime}, {seen.device} ({seen.verified_by})"),
        "parity": f"beside PyTorch at export: {held}" if held else "no parity run",
    }


def _bench(report: Report | None, told: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if report is None or all(one["accuracy"] == "not measured" for one in told):
        return None
    counts = {row.n for row in report.rows if row.n}
    machine = report.machine
    return {
        "questions": f"{max(counts):,}" if counts else "an unknown number of",
        "data": escape(str(report.data)),
        "machine": escape(", ".join(f"{key.replace('_', ' ')} {value}" for key, value in machine.items())),
    }


def _made(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    recipe, inputs, data = manifest["recipe"], manifest["inputs"], manifest["data"]
    trained, rewards = recipe["trainer"], recipe["masters"]["grpo_weight"]
    parts = [f"{weight:g} {name}" for name, weight in recipe["objective"].items()]
    ratios = "; ".join(", ".join(f"{ratio:g}" for ratio in one["mask_ratios"]) for one in manifest["schedule"])
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    hours = sum(manifest.get("seconds", {}).values()) / 3600
    hashed: list[tuple[str, object, str]] = [
        ("student, before", recipe["student"]["checkpoint"], inputs["student_sha256"]),
        *(
            ("teacher", teacher["checkpoint"], digest)
            for teacher, digest in zip(recipe["teachers"], inputs["teachers_sha256"], strict=True)
        ),
        ("student, after", "", manifest["student_sha256"]),
        ("train questions", f"{data['train_questions']:,} of {recipe['data']['train']}", data["train_sha256"]),
        ("recipe", "", manifest["recipe_sha256"]),
    ]
    plain = [
        ("objective", " + ".join([*parts, *([f"{rewards:g} rewards"] if rewards else [])])),
        ("steps", f"{trained['steps']:,} of {trained['batch_questions']} questions, seed {manifest['seed']}"),
        ("mask ratios", ratios),
        ("versions", versions),
        ("time", f"{hours:.2f} h on {manifest['processes']} process(es)"),
    ]
    return [
        *((key, f"{escape(str(text))} `{escape(str(digest))}`".strip()) for key, text, digest in hashed),
        *((key, escape(text)) for key, text in plain),
    ]


def _limits(manifest: Mapping[str, Any], bundles: Sequence[Bundle], rows: Mapping[str, Row]) -> list[str]:
    data = manifest["recipe"]["data"]
    found = [f"It was trained on {escape(str(data['train']))} and measured on {escape(str(data['test']))}. {NOT_ASKED}"]
    accuracy = manifest.get("accuracy")
    if accuracy:
        wrong = 1 - accuracy["after"]
        found.append(f"Of such questions it answers {wrong:.1%} wrong, and does not say when.")
    if "retention" not in manifest:
        found.append("What it could before on other questions, and may have unlearned, was not measured.")
    if any(bundle.hash not in rows for bundle in bundles):
        found.append("Bundles whose accuracy is not measured were compared with PyTorch at export alone.")
    if any(row.verified_by == "evaluator" for key, row in rows.items() if key in {one.hash for one in bundles}):
        found.append(
            "`evaluator`: edgekit's own ran the programs and weights that ship; Apple's rounding was not seen."
        )
    if not any(row.verified_by == "device" for row in rows.values()):
        found.append("No phone has run it, as far as the run knows; each bundle's golden answers let one try.")
    return found


def _use(bundles: Sequence[Bundle]) -> str:
    folder = f"bundles/{bundles[0].folder.name}" if bundles else "."
    lines = [f'edgekit run {folder} --image image.png --prompt "..."']
    if bundles:
        lines.append(f"edgekit verify {folder} --reference .")
    return "\n".join(lines)


def _results(manifest: Mapping[str, Any], benchmark: Benchmark | None) -> dict[str, str]:
    """Files below `.eval_results/`, by huggingface_hub's own writer; percent, as its examples have it."""
    accuracy = manifest.get("accuracy")
    if benchmark is None:
        return {}
    if not accuracy:
        raise EdgekitError("The run has no accuracy to publish.", fix="Leave --benchmark out.")
    if not HUB_NAME.fullmatch(benchmark.dataset):
        raise EdgekitError(
            f"{benchmark.dataset!r} is no data set of the hub.", fix="Write  --benchmark ORG/NAME  or  ORG/NAME:TASK"
        )
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    low, high = accuracy["after_ci95"]
    entry = EvalResultEntry(
        dataset_id=benchmark.dataset,
        task_id=benchmark.task,
        value=round(100 * accuracy["after"], 2),
        notes=f"edgekit {manifest['versions']['edgekit']}, greedy; {accuracy['n']} questions of {accuracy['test']}; "
        f"95 % interval {100 * low:.2f} to {100 * high:.2f}",
    )
    name = benchmark.dataset.replace("/", "__") + ("" if benchmark.task == "default" else f"__{benchmark.task}")
    return {f"{name}.yaml": write_yaml(eval_result_entries_to_yaml([entry]))}


# ----------------------------------------------------------------------------------------------------------- in letters


def _escaped(gain: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if gain is None else {**gain, "test": escape(str(gain["test"]))}


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.2f}"


def _span(interval: Sequence[float] | None, form: str = ".2f") -> str:
    return "" if interval is None else f"\\[{', '.join(f'{100 * end:{form}}' for end in interval)}\\]"
