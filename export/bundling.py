"""From a checkpoint to a bundle: what all targets share."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import __version__
from edgekit.asides import clear_left_behind
from edgekit.bundle import MANIFEST, Bundle
from edgekit.checkpoint.folder import check_checkpoint, checkpoint_hash, load_model
from edgekit.checkpoint.generation import FILE as GENERATION
from edgekit.checkpoint.generation import recorded
from edgekit.data import Sample
from edgekit.errors import (
    CheckpointError,
    EdgekitError,
    MissingExtraError,
    NotHereError,
    StorageError,
    UnsupportedError,
    did_you_mean,
)
from edgekit.export import TARGETS, Target, vision_name
from edgekit.export._handover import Answers, hand_over
from edgekit.export._inputs import compare_with_official, with_inputs, write_inputs
from edgekit.export.genai import check_genai, write_genai
from edgekit.export.parity import Opens, TorchModules, encode_images, follow, measure
from edgekit.export.prompts import Prompts, drawn_samples, parity_inputs
from edgekit.families import Family, Size, Split, family_of, no_split, no_split_error
from edgekit.families.decoding import manifest_fields
from edgekit.families.sizes import with_view_tokens
from edgekit.files import new_folder, scratch, sha256_json, tree_files
from edgekit.inputs.chat import JINJA
from edgekit.inputs.processor import Inputs, Processor
from edgekit.inputs.resizing import ORDER, installed_order
from edgekit.manifest import NOT_RUN, Bucket, Cache, Precision, Text
from edgekit.precision import TargetPrecision, by_part, is_mixed
from edgekit.report.tolerances import MOST_PROMPTS, PROMPTS
from edgekit.seal import FOLDER_SEAL
from edgekit.system.disk import room_for

COPIED = (".json", ".jinja", ".txt", ".model")
LEFT_BEHIND = {"card.json", FOLDER_SEAL, MANIFEST}
INDICES = ".safetensors.index.json"


def check_request(target: str, precision: str, options: Mapping[str, str] | None = None) -> Target:
    """The target, once target, precision, options and operating system are known to go together.

    Args:
        target: Name of a target.
        precision: Common name, or a mixture.
        options: Of the target's own, by name.

    Raises:
        EdgekitError: they do not.
        MissingExtraError: a package of the target's extra is not installed.
    """
    found = TARGETS.load(target)
    if is_mixed(precision):
        _check_mixture(target, precision, found.parts)
    elif precision not in found.precisions:
        raise EdgekitError(
            f"Target {target!r} has no precision {precision!r}.", fix=f"There are: {', '.join(found.precisions)}."
        )
    if platform.system() not in found.hosts:
        raise EdgekitError(
            f"Target {target!r} cannot be exported on {platform.system()}.", fix=f"Use: {', '.join(found.hosts)}."
        )
    for package in found.missing(precision):
        raise MissingExtraError(f"export to {target!r}", package, found.extra, install=found.install())
    _check_options(target, found.options, options or {})
    if found.plan is not None:
        found.plan(precision, options or {})
    return found


def _check_options(target: str, known: Mapping[str, tuple[str, ...] | str], given: Mapping[str, str]) -> None:
    for name, value in given.items():
        if name not in known:
            there = f"There are: {', '.join(known)}." if known else "It has none."
            fix = f"{did_you_mean(name, known)} {there}".lstrip()
            raise EdgekitError(f"Target {target!r} has no option {name!r}.", fix=fix)
        choices = known[name]
        if not isinstance(choices, str) and value not in choices:
            raise EdgekitError(f"--option {name}={value}: no such choice.", fix=f"There are: {', '.join(choices)}.")


def _check_mixture(target: str, precision: str, parts: Mapping[str, Mapping[str, TargetPrecision]] | None) -> None:
    if parts is None:
        raise EdgekitError(
            f"Target {target!r} has one precision for a whole bundle, so {precision!r} is none of them.",
            fix="Name one precision:  --precision fp32",
        )
    for part, own in by_part(precision).items():
        if own not in parts[part]:
            raise EdgekitError(
                f"Target {target!r} has no precision {own!r} for the {part} part.",
                fix=f"There are: {', '.join(parts[part])}.",
            )


def export_checkpoint(
    checkpoint: Path,
    target: str,
    precision: str,
    out: Path,
    *,
    opens: Opens,
    sizes: Sequence[Size] | None = None,
    samples: Sequence[Sample] = (),
    prompts: int | None = None,
    calibration: Sequence[Sample] = (),
    with_genai: bool = False,
    options: Mapping[str, str] | None = None,
    run: str | None = None,
    teacher_sha256: str | None = None,
    replace: bool = False,
    answers: Answers | None = None,
) -> Bundle:
    """Export a student, compare it with PyTorch, and seal the bundle.

    Args:
        checkpoint: Hugging Face folder of a known family.
        target: Name of a target.
        precision: Common name of a precision the target has, or a mixture (edgekit/precision.py).
        out: The bundle's folder; it appears whole or not at all.
        opens: Opens the bundle by its own runtime, for the parity run.
        sizes: Image sizes (width, height) in pixels, where the family has a choice; its own when None.
        samples: Questions for the parity run; drawn images and stock questions when there are none.
        prompts: How many of them; as many as the tolerances need (`edgekit.report.tolerances.settling`) when None.
        calibration: Questions, for a precision that the target calibrates; never those of the parity run.
        with_genai: Write what onnxruntime-genai needs into an ONNX bundle.
        options: Of the target's own (OPTIONS of its module), by name.
        run, teacher_sha256: Where the student came from.
        replace: Put it in the place of an existing bundle.
        answers: Asks the bundle for its golden answers, by its own runtime; it has none when None.

    Returns:
        The bundle; `manifest.parity["passed"]` says whether the tolerances held.
    """
    chosen = check_request(target, precision, options)
    _check_place(out)
    config = check_checkpoint(checkpoint)
    family = family_of(config["model_type"])
    if family.split is no_split:
        raise no_split_error(str(config["model_type"]))
    processor = Processor.load(checkpoint).for_sizes(sizes)
    processor = processor.as_exported({**processor.params, ORDER: installed_order()})
    model = load_model(checkpoint)
    generation = recorded(model.generation_config.to_dict(), str(checkpoint / GENERATION))
    split = made_whole(family, model, processor.params)
    _check_needs(chosen, split)
    if with_genai:
        check_genai(split)
    copied = [path for path in checkpoint.iterdir() if path.is_file() and path.suffix in COPIED]
    copied = [path for path in copied if not path.name.endswith(INDICES) and path.name not in LEFT_BEHIND]
    clear_left_behind(out.parent, deep=False)  # of any target: they are large
    with room_for(out, *_room(model, chosen, precision, copied)), new_folder(out, replace=replace) as folder:
        for path in copied:
            shutil.copyfile(path, folder / path.name)
        write_inputs(processor, checkpoint, folder)
        inputs = parity_inputs(processor, samples, prompts or MOST_PROMPTS)
        _check_pixels(split, inputs[:16])  # stock questions come in all their shapes by then
        shown = Prompts(processor, calibration) if chosen.needs_calibration(precision) else ()
        given_names = set(tree_files(folder))
        with scratch(folder):
            components, tools = chosen.write(split, precision, folder, shown, options or {})
        own = set(tree_files(folder)) - given_names
        student = checkpoint_hash(checkpoint)
        if chosen.label is not None:
            chosen.label(folder, components, export_hash(student, target, precision, processor.params))
        if with_genai:
            write_genai(folder, components, split, config, chosen.in_place(components["text_decoder"], split))
        asked = samples or drawn_samples(PROMPTS)
        fed = compare_with_official(checkpoint, folder, processor.params, asked, prompts)
        details = chosen.details(folder) if chosen.details is not None else {}

        def measured() -> dict[str, Any]:
            with scratch(folder):
                parity = _parity(opens, folder, split, inputs, target, precision, prompts)
            return with_inputs(parity, fed) | {
                "generation": "greedy",
                "questions": "given" if samples else "synthetic",
                **baked_against_original(model, family, split, inputs),
            }

        hand_over(
            folder,
            own,
            measured,
            answers,
            name=out.name,
            target=target,
            precision=Precision(precision, chosen.native(precision)),
            family=family.name,
            components=components,
            preprocessing=processor.params,
            text=Text("tokenizer.json", JINJA, split.image_token_id, tuple(split.eos_token_ids)),
            cache=Cache(
                split.layers,
                split.kv_heads,
                split.head_dim,
                chosen.in_place(components["text_decoder"], split),
                all(state.rewinds for state in split.states),
            ),
            vocab_size=split.vocab_size,
            student_sha256=student,
            teacher_sha256=teacher_sha256,
            run=run,
            tools={"edgekit": __version__, "torch": version("torch"), "transformers": version("transformers"), **tools},
            buckets={name: Bucket(vision_name(name), part.grid, part.tokens) for name, part in split.vision.items()},
            **manifest_fields(split.extra_inputs),
            details=details,
            generation=generation,
        )
    return Bundle.load(out)


def _parity(
    opens: Opens,
    folder: Path,
    split: Split,
    inputs: Sequence[Inputs],
    target: str,
    precision: str,
    prompts: int | None,
) -> dict[str, Any]:
    """What ships, opened by its own runtime, against PyTorch; and who ran it, or why nobody did."""
    try:
        exported = opens(folder)
    except NotHereError as error:
        return {"checks": {}, "passed": None, "verified_by": NOT_RUN, "why": str(error)}
    try:
        figures = measure(split, exported, inputs, precision, target=target, count=prompts)
        return figures | {"verified_by": exported.verified_by}
    finally:
        exported.close()


def made_whole(family: Family, model: Any, params: dict[str, Any]) -> Split:
    """A family's split, with what the exporter adds to it.

    Args:
        family: Of the model.
        model: Untouched.
        params: Of its image processor; `sizes` in them are those that the family bakes.
    """
    sizes = params.get("sizes")
    found = with_view_tokens(family.split(model, sizes), params)
    return dataclasses.replace(found, source=model, sizes=None if sizes is None else tuple(sizes))


TOOLS = 16 << 20  # bytes of a tool's temporary files that do not grow with the model


def _room(model: Any, target: Target, precision: str, copied: Sequence[Path]) -> tuple[int, int]:
    """Bytes that a bundle takes at least, and at most while it is made: three copies of its weights in float32."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    files = sum(path.stat().st_size for path in copied)
    each = min(one.common.weight_bytes for one in target.of_parts(precision).values())
    # A quarter off: an export may leave out layers that no answer passes through.
    return files + int(0.75 * each * weights), 2 * files + 12 * weights + TOOLS


def _check_place(out: Path) -> None:
    """A bundle takes the place of an older one, and of nothing else: what else is in that folder would be lost.

    Raises:
        StorageError: there is a file, or a folder that is neither empty nor one bundle.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise StorageError(
            f"{out} exists, and is no bundle.",
            why="The new bundle would take its place, and what is in it would be lost.",
            fix=f"Name a folder inside it:  --out {out / 'NAME'}",
        )
    inner = sorted(path.parent.name for path in out.glob(f"*/{MANIFEST}"))
    if inner:
        raise StorageError(
            f"{out} holds the bundle {inner[0]!r}, beside its own files.",
            why="The new bundle would take its place, and that one would be lost.",
            fix="Move it elsewhere, or name another folder with --out.",
        )


def _check_needs(target: Target, split: Split) -> None:
    """A target says which of `Split.needs` it knows of; what it does not know of it would silently get wrong."""
    if missing := split.needs().keys() - target.knows:
        one_view = "  Or export it for images of one view:  --image-size 512x512" if missing == {"views"} else ""
        raise UnsupportedError(
            f"Target {target.name!r} cannot hold this model.",
            why="\n".join(_lacking(target, name, split.needs()[name]) for name in sorted(missing)),
            fix=f"Targets that can: {', '.join(_knowing(set(split.needs())))}.{one_view}",
        )


def _lacking(target: Target, kind: str, about: str) -> str:
    known = target.lacks.get(kind)
    return f"It knows of no such model: {about}." if known is None else f"{about[0].upper()}{about[1:]}. {known}"


def _knowing(needs: set[str]) -> list[str]:
    return [name for name, target in TARGETS.working() if needs <= target.knows]


def export_hash(student_sha256: str, target: str, precision: str, preprocessing: Mapping[str, Any]) -> str:
    """What says in a program's own metadata which export it belongs to: a hash of the manifest's fields of that name.

    It cannot be the bundle's hash, which is over the program's own bytes.
    """
    return sha256_json(
        {
            "student_sha256": student_sha256,
            "target": target,
            "precision": precision,
            "preprocessing": json.loads(json.dumps(preprocessing)),
        }
    )


def baked_against_original(model: Any, family: Family, split: Split, inputs: Sequence[Inputs]) -> dict[str, float]:
    """First rung of the ladder: the split's modules against the untouched model, on the first prompt with an image."""
    import torch

    item = next((item for item in inputs if item.pixels is not None), None)
    if item is None or item.pixels is None:
        return {}
    pixels = torch.from_numpy(item.pixels.values)
    ids = torch.from_numpy(item.ids)
    with torch.no_grad():
        untouched = family.encode_images(model, pixels, item.pixels.grids)
        given = family.forward_inputs(model, pixels, ids, item.pixels.grids)
        whole = model(input_ids=ids, use_cache=False, **given).logits[0, -1].numpy()
    baked = encode_images(TorchModules(split), split, item.pixels)
    vision = np.abs(baked.embeds - untouched.embeds.numpy()).max()
    for name, values in untouched.extra.items():
        vision = max(vision, np.abs(baked.extra[name] - values.numpy()).max())
    logits, _ = follow(TorchModules(split), split, item, [0], 1)
    return {"baked_vision_max_abs": float(vision), "baked_logits_max_abs": float(np.abs(logits[0] - whole).max())}


def _check_pixels(split: Split, inputs: Sequence[Inputs]) -> None:
    """The image processor and the model must agree on the size of a tile."""
    part = next(iter(split.vision.values()))
    if part.of_any_view:  # its patches were held to the model's when the settings were read
        return
    wanted = part.pixels[1:]
    for item in inputs:
        if item.pixels is not None and item.pixels.values.shape[1:] != wanted:
            found = " x ".join(map(str, item.pixels.values.shape[1:]))
            raise CheckpointError(
                f"The image processor makes tiles of {found}, the model takes {' x '.join(map(str, wanted))}.",
                why="Positions are baked for the size in config.json's vision_config.",
                fix="Make the sizes in preprocessor_config.json and config.json the same.",
            )
