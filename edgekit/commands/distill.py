"""`edgekit distill`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.console import is_main_process, note, print_json, print_text
from edgekit.units import bytes_text, hours_text

if TYPE_CHECKING:
    from edgekit.api.distilling_results import DistillPlan


def command(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="Recipe; edgekit.yaml of this workspace, else the built-in demo.", show_default=False),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Folder name of the run below runs/.", show_default=False)] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start a new run even where this recipe has one.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a setting of the recipe; may be repeated.", show_default=False
        ),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Go on with a teacher that cannot answer the questions itself.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the memory, disk and hours it will need; start nothing.")
    ] = False,
    flops: Annotated[
        float | None,
        typer.Option(
            help="With --dry-run: FLOP/s of a large matrix product on one device; measured here when absent.",
            show_default=False,
        ),
    ] = None,
    response_tokens: Annotated[
        float | None,
        typer.Option(
            help="With --dry-run: mean tokens of a response; the most allowed when absent.", show_default=False
        ),
    ] = None,
    distinct_responses: Annotated[
        float | None,
        typer.Option(
            help="With --dry-run: mean number of different responses to a question; all of them when absent.",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[int, typer.Option(help="With --dry-run: processes that share the work, one per GPU.")] = 1,
    json_out: Annotated[bool, typer.Option("--json", help="Print the run's manifest, or the plan, as JSON.")] = False,
) -> None:
    """Distil a student from its teachers with MASTERS; the same command resumes a run that was stopped.

    Example:  edgekit distill edgekit.yaml --set trainer.steps=400
    """
    from edgekit import api

    settings = api.parse_overrides(overrides or [])
    if anyway:
        settings["masters.gen_data.check_teacher"] = "false"
    if dry_run:
        plan = api.distill_plan(
            recipe,
            overrides=settings,
            flops=flops,
            response_tokens=response_tokens,
            distinct_responses=distinct_responses,
            processes=processes,
        )
        print_json(plan.as_json()) if json_out else _print_plan(plan)
        return
    if (flops, response_tokens, distinct_responses, processes) != (None, None, None, 1):
        raise typer.BadParameter("--flops, --response-tokens, --distinct-responses and --processes go with --dry-run.")
    made = api.distill(recipe, name=name, fresh=fresh, overrides=settings)
    manifest = made.manifest
    if not is_main_process():
        return
    if json_out:
        print_json(made.as_json())
        return
    score = made.accuracy
    for when, value, (low, high) in (
        ("before:", score.before, score.before_ci95),
        ("after:", score.after, score.after_ci95),
    ):
        print_text(f"accuracy {when:8} {value:.2%}  [{low:.2%}, {high:.2%}]")
    low, high = score.delta_ci95
    print_text(
        f"difference:       {score.delta:+.2%}  [{low:+.2%}, {high:+.2%}]  on {score.n:,} questions of {score.test}"
    )
    if kept := made.retention:
        low, high = kept.delta_ci95
        print_text(
            f"what else it could: {kept.before:.2%} -> {kept.after:.2%}  {kept.delta:+.2%}  "
            f"[{low:+.2%}, {high:+.2%}]  on {kept.n:,} questions of {kept.test}"
        )
    drafts = manifest["acceptance"]
    print_text(
        f"as a draft of the teacher: expected acceptance {drafts['before']['expected']:.3f} before, "
        f"{drafts['after']['expected']:.3f} after"
    )
    _print_training(manifest.get("training", {}))
    if qad := manifest.get("qad"):
        precision = qad["settings"]["precision"]
        low, high = qad["delta_ci95"]
        print_text(
            f"at {precision} weights:  {qad['before']:.2%} -> {qad['after']:.2%} by quantisation-aware distillation  "
            f"[{low:+.2%}, {high:+.2%}]"
        )
    print_text(f"student:          runs/{manifest['run']}/student")
    if not score.after:
        note(
            f"No question of {score.test} is answered right; what was said instead:  "
            f"runs/{manifest['run']}/reports/accuracy-after.json"
        )
    note("Next:  edgekit export --target onnx")


def _print_training(found: dict[str, Any]) -> None:
    """How often the rewards preferred nothing, and whether policy and objective pulled against each other."""
    if "no_advantage" in found:
        cancelled = f", in {found['cancelled']:.1%} as they cancel each other" if "cancelled" in found else ""
        print_text(f"rewards:          no response preferred in {found['no_advantage']:.1%} of the groups{cancelled}")
    if (gradients := found.get("gradients")) and gradients["at_war"]:
        means = gradients["means"]
        note(
            f"At {gradients['at_war']} of {gradients['measured']} looks the policy's gradient was larger than the "
            f"objective's and against it (means: {means['policy']:.3g}, {means['objective']:.3g}, cosine "
            f"{means['cosine']:.2f}): try masters.off_policy=topr, or a lower masters.grpo_weight."
        )


def _print_plan(plan: DistillPlan) -> None:
    sizes, memory, disk = plan.parameters, plan.memory_bytes, plan.disk_bytes
    lines = [(f"parameters    {name}", f"{count:,}") for name, count in sizes["teachers"].items()]
    lines.append(("parameters    student", f"{sizes['student']:,} ({sizes['trainable']:,} trained)"))
    counts = plan.responses
    lines.append(("questions     train, test", f"{plan.questions['train']:,}, {plan.questions['test']:,}"))
    lines.append(("responses     teachers, student", f"{counts['teacher']:,}, {counts['student']:,}"))
    for phase, title in (("gen_data", "Gen-Data"), ("training", "training")):
        lines += [(f"memory        {title}: {part}", bytes_text(value)) for part, value in memory[phase].items()]
    lines.append(("memory        peak of a process", bytes_text(memory["peak"])))
    for part in ("answer logits if dense", "student states under FSDP2 or ZeRO-3"):
        lines.append((f"memory        not counted: {part}", bytes_text(memory[part])))
    lines += [(f"disk          {part}", bytes_text(value)) for part, value in disk.items()]
    names = {"gen_data": "Gen-Data", "train": "training", "measure": "accuracy before and after", "total": "total"}
    lines += [(f"time          {names[part]}", hours_text(value)) for part, value in plan.hours.items()]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print_text(f"{name:{width}}  {value:>12}")
    for text in plan.assumptions:
        note(f"- {text}")
