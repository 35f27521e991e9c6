"""`edgekit export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.console import note, print_json, print_text
from edgekit.errors import EdgekitError


def command(
    checkpoint: Annotated[
        str | None,
        typer.Argument(help="Hugging Face folder; the student of the latest run by default.", show_default=False),
    ] = None,
    target: Annotated[str, typer.Option(help="Targets, with commas; `edgekit targets` lists them.")] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option(
            help="Precisions, with commas, or one for each part: vision=fp16,embedding=int8,text=int4; the recipe's, "
            "else fp32, by default.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the bundle; runs/<run>/bundles/<target>-<precision> by default.", show_default=False
        ),
    ] = None,
    image_size: Annotated[
        list[str] | None,
        typer.Option(
            help="Image size in pixels, as 448x336; may be repeated. For Qwen-VL, whose exports are for these "
            "sizes only, its own choice by default; and for LFM2-VL, whose exports take any image and cut tiles of "
            "large ones by default.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Questions for the parity run; the run's test questions by default.", show_default=False),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Questions in the parity run; 32, and up to 160 until their answers have 300 tokens, by default.",
            min=1,
            show_default=False,
        ),
    ] = None,
    calibrate: Annotated[
        int | None,
        typer.Option(
            help="Questions a calibrated precision, such as int8-static, is shown; the recipe's, else 64, by default.",
            min=1,
            show_default=False,
        ),
    ] = None,
    calibration_data: Annotated[
        str | None,
        typer.Option(help="Questions to calibrate with; the run's train questions by default.", show_default=False),
    ] = None,
    with_genai: Annotated[
        bool | None,
        typer.Option(
            "--with-genai/--without-genai",
            help="Also write genai_config.json and its graphs, for onnxruntime-genai; the recipe's choice by default.",
            show_default=False,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="An option of the target's own as NAME=VALUE, such as ios=17 of coreml; may be repeated. "
            "`edgekit targets --json` lists them.",
            show_default=False,
        ),
    ] = None,
    json_out: Annotated[bool, typer.Option("--json", help="Print the manifests as JSON.")] = False,
) -> None:
    """Export a student and compare it with PyTorch; exit 3 when a tolerance of that comparison is missed.

    Example:  edgekit export ./student --target onnx --precision fp32,int8 --out bundles
    """
    from edgekit import api
    from edgekit.families.sizes import read_size
    from edgekit.precision import split_list
    from edgekit.schema import to_json

    bundles = api.export(
        checkpoint,
        targets=_names(target),
        precisions=split_list(precision) if precision else None,
        out=out,
        sizes=[read_size(text) for text in image_size] if image_size else None,
        data=data,
        samples=samples,
        calibrate=calibrate,
        calibration_data=calibration_data,
        with_genai=with_genai,
        options=dict(_pair(text) for text in option or []),
    )
    if json_out:
        print_json(
            [{"folder": str(bundle.folder), "hash": bundle.hash, **to_json(bundle.manifest)} for bundle in bundles]
        )
    for bundle in bundles:
        parity = bundle.manifest.parity or {}
        if not json_out:
            print_text(f"{bundle.folder}  {bundle.size_bytes / 1e6:.2f} MB  {bundle.hash[:12]}")
            if _not_run(parity):
                _print_not_run(parity)
                continue
            print_text(
                f"  {'PASS' if parity['passed'] else 'FAIL'}  on {parity['samples']} prompts: "
                f"greedy identical {parity['greedy_identical']:.1%}, best token {parity['top1_agreement']:.2%}, "
                f"logits {_within(parity['logits_max_abs'])}{_verified(parity)}"
            )
            _print_inputs(parity)
    if any(_missed(bundle.manifest.parity or {}) for bundle in bundles):
        note("A bundle misses its tolerances against PyTorch; it is kept.  Look closer:  edgekit verify BUNDLE")
        raise typer.Exit(3)


def _not_run(parity: dict[str, Any]) -> bool:
    from edgekit.manifest import NOT_RUN

    return parity.get("verified_by") == NOT_RUN


def _missed(parity: dict[str, Any]) -> bool:
    """A bundle that nothing ran has missed nothing, unless it is fed wrongly."""
    if _not_run(parity):
        return not all(check["held"] for check in parity["checks"].values())
    return not parity.get("passed")


def _print_not_run(parity: dict[str, Any]) -> None:
    print_text(f"  NOT COMPARED with PyTorch; verified_by: {parity['verified_by']}")
    for line in str(parity.get("why", "")).splitlines():
        print_text(f"  {line}")
    _print_inputs(parity)


def _print_inputs(parity: dict[str, Any]) -> None:
    """One line more where prompts or pixels are not the checkpoint's own processor's."""
    checks = [parity["checks"].get(name, {"held": True}) for name in ("prompt_ids_equal", "pixel_max_abs")]
    if not all(check["held"] for check in checks):
        print_text(
            f"  not fed as transformers feeds the checkpoint, on {parity['inputs']} prompts: "
            f"ids equal {parity['prompt_ids_equal']:.1%}, pixels {_within(parity['pixel_max_abs'])}"
        )


def _within(gap: float | None) -> str:
    return "not finite" if gap is None else f"within {gap:.1e}"


def _verified(parity: dict[str, Any]) -> str:
    how = parity.get("verified_by", "runtime")
    return "" if how == "runtime" else f"; verified_by: {how}"


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name.strip() and equals):
        raise EdgekitError(f"--option {text!r} is not NAME=VALUE.", fix="For example:  --option ios=17")
    return name.strip(), value.strip()


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
