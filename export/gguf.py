"""GGUF for llama.cpp: a text model and its mmproj, named as that ecosystem names them.

    <name>-<TYPE>.gguf             the decoder with its tokenizer and chat template
    mmproj-<name>-<TYPE>.gguf      the vision encoder and projector

The text model is written in float32 and brought to its type by llama.cpp's own `llama_model_quantize`, in a process of
its own. A width that a type's blocks do not divide falls back to another type; the manifest's details count them.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleError, CheckpointError, EdgekitError
from edgekit.export import NO_OPTIONS, Options, Target, Written
from edgekit.export import _gguf_files as files
from edgekit.export import _gguf_vocabulary as vocabularies
from edgekit.export._gguf_delta import in_turns
from edgekit.export._gguf_own import own_preprocessing
from edgekit.export.parity import TorchModules, follow
from edgekit.families import Split, family_of
from edgekit.families._clip import MmProj
from edgekit.files import write_json
from edgekit.formats.gguf.precisions import PARTS, PLAIN, PRECISIONS
from edgekit.formats.gguf.process import CONTEXT, PACKAGES, LlamaProcess, check_packages
from edgekit.inputs.processor import Inputs
from edgekit.manifest import Component, TensorSpec
from edgekit.precision import by_part, is_mixed

DETAILS = "gguf-details.json"  # in the folder only while the bundle is made


def write(
    split: Split, precision: str, folder: Path, calibration: Sequence[Inputs] = (), options: Options = NO_OPTIONS
) -> Written:
    """Write both files.

    Args:
        split: The modules, with the model they were taken from.
        precision: One of PRECISIONS, or a mixture of PARTS.
        folder: The bundle's.
        calibration: Prompts, where the text's precision wants an importance matrix.
        options: It has none.

    Returns:
        The components by name, and the versions of the tools.

    Raises:
        MissingExtraError: a package of the extra is not installed.
        CheckpointError: a model or a tokenizer that llama.cpp cannot take; nothing is written.
        BundleError: llama.cpp refuses to quantise, or its process ended.
    """
    check_packages("export to 'gguf'")
    source: Any = split.source
    if not split.eos_token_ids:
        raise CheckpointError(
            "A checkpoint without an end token cannot be exported to 'gguf'.",
            why="llama.cpp takes a token of its own choosing where a file names none.",
            fix="Name it in generation_config.json (eos_token_id), as a number.",
        )
    config = files.as_json(source.config.to_dict())
    plan, params = plan_of(config, folder)
    rows = int(source.get_input_embeddings().weight.shape[0])
    vocabulary = vocabularies.read_vocabulary(folder, rows)
    vocabularies.check_pieces(vocabulary, plan)
    architecture = files.check_shapes(config, plan)
    precisions = by_part(precision)
    _check_embedding(precision, split.width)
    vision = _vision_type(precision)
    title = files.model_title(source)
    type_name = PRECISIONS[precisions["text"]].type_name
    text_file, vision_file = f"{title}-{type_name}.gguf", f"mmproj-{title}-{vision}.gguf"
    card = Path(str(source.name_or_path))
    prefixes = family_of(config["model_type"]).prefixes["vision"]
    files.write_gguf(
        folder / vision_file,
        "clip",
        files.vision_metadata(plan, params, split.width),
        files.vision_tensors(source, plan, prefixes),
        vision,
        card,
        title,
    )
    metadata = files.text_metadata(config, architecture, rows) | vocabularies.vocabulary_metadata(
        vocabulary, folder, split.eos_token_ids[0], config
    )
    importance = importances(split, architecture, calibration) if PRECISIONS[precisions["text"]].calibrated else {}
    context = min(CONTEXT, int(config["text_config"]["max_position_embeddings"]))
    made: dict[str, Any] = {
        "mmproj": {"file": vision_file, "type": vision, "image_tokens": plan.image_tokens},
        "text": {"file": text_file, "type": type_name, "context": context},
    }
    with _plain_file(folder / text_file, type_name) as plain:
        tensors = files.text_tensors(source, architecture)
        files.write_gguf(plain, architecture, metadata, tensors, "F32", card, title)
        if plain.name != text_file:
            made["text"] |= quantise(plain, folder / text_file, precision, importance)
    for part in made.values():
        part["types"] = files.read_types(folder / part["file"])
    write_json(folder / DETAILS, {**made, "placeholder": plan.placeholder})
    components = _components(split, precision, text_file, vision_file)
    return components, {package: version(package) for package in PACKAGES.values()}


@contextmanager
def _plain_file(final: Path, type_name: str) -> Iterator[Path]:
    """Where the float32 text model goes: its place, or aside until it is quantised."""
    if type_name == "F32":
        yield final
        return
    plain = final.with_name("plain.gguf")
    try:
        yield plain
    finally:
        plain.unlink(missing_ok=True)


def plan_of(config: Mapping[str, Any], folder: Path) -> tuple[MmProj, dict[str, Any]]:
    """How the family's vision encoder is written, and the parameters of its preprocessing.

    Raises:
        EdgekitError: the family has no such plan.
    """
    family = family_of(str(config["model_type"]))
    if family.mmproj is None:
        raise EdgekitError(
            f"A {config['model_type']} model cannot be exported to GGUF.",
            why="Its family file says nothing of llama.cpp's names for it.",
            fix="Export to another target.",
        )
    params = family.read_preprocessing(folder)
    return family.mmproj(config, params), params


def _check_embedding(precision: str, width: int) -> None:
    """Raise EdgekitError where llama.cpp would refuse to quantise: it has no fallback for a type chosen by hand."""
    own = by_part(precision)["embedding"]
    kind = PRECISIONS[own].table
    block = _block(kind)
    if is_mixed(precision) and width % block:
        fitting = [one.name for one in PLAIN if width % _block(one.table) == 0]
        raise EdgekitError(
            f"The embedding cannot be {own!r}.",
            why=f"Its rows of {width} numbers do not divide into {kind}'s blocks of {block}.",
            fix=f"Those that fit: {', '.join(fitting)}.",
        )


def _block(kind: str) -> int:
    import gguf

    return int(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0])


def _vision_type(precision: str) -> str:
    """Of the mmproj: F16 beside any quantised text model, as the ecosystem has it, unless a mixture says otherwise."""
    own = by_part(precision)["vision"]
    if is_mixed(precision):
        return PRECISIONS[own].type_name
    return "F32" if own == "fp32" else "F16"


def quantise(
    plain: Path, out: Path, precision: str, importance: Mapping[str, NDArray[np.float32]], threads: int | None = None
) -> dict[str, Any]:
    """Bring a float32 text model to its type by llama.cpp.

    Args:
        plain: The float32 file.
        out: The file to write.
        precision: One of PRECISIONS, or a mixture whose embedding has its own.
        importance: Mean square of each input column, by tensor.
        threads: All processors by default.

    Returns:
        fallbacks: tensors whose width the type's blocks do not divide, which llama.cpp gave another type; and how many
        tensors were weighed by importance.

    Raises:
        BundleError: llama.cpp refuses, or its process ended.
        OSError: the disk is full.
    """
    import gguf

    precisions = by_part(precision)
    own = gguf.GGMLQuantizationType[PRECISIONS[precisions["embedding"]].table].value if is_mixed(precision) else None
    with LlamaProcess(log_level=2) as process:
        try:
            process.ask(
                "quantize", *importance.values(), source=str(plain), out=str(out), importance=list(importance),
                ftype=PRECISIONS[precisions["text"]].file_type, threads=threads or os.cpu_count() or 1,
                token_embedding_type=own, output_tensor_type=own,
            )  # fmt: skip
        except BundleError as error:
            if shutil.disk_usage(out.parent).free < plain.stat().st_size // 8:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out)) from error
            raise
        log = process.log()
    counted = re.search(r"(\d+) of \d+ tensor\(s\) required fallback", log)
    return {"fallbacks": int(counted[1]) if counted else 0, "weighed": len(importance)}


def importances(split: Split, architecture: str, calibration: Sequence[Inputs]) -> dict[str, NDArray[np.float32]]:
    """Mean square of what goes into each column of the decoder's matrices: what `llama-imatrix` measures, here in
    PyTorch and with the images of the prompts.

    Args:
        split: The modules.
        architecture: llama.cpp's name.
        calibration: Prompts.

    Returns:
        By llama.cpp's names.

    Raises:
        EdgekitError: there are no prompts.
    """
    import gguf
    from torch import nn

    if not calibration:
        raise EdgekitError("An importance matrix needs prompts.", fix="Give some:  --calibration-data questions.jsonl")
    text: Any = split.text
    arch = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(arch, text.text_model.config.num_hidden_layers)  # not all have keys
    sums: dict[str, Any] = {}
    counts: dict[str, int] = {}
    hooks = []
    linears = {f"model.{name}.weight": part for name, part in text.text_model.named_modules()}
    linears["lm_head.weight"] = text.lm_head
    for name, part in linears.items():
        theirs = names.get_name(name, try_suffixes=(".weight",)) if isinstance(part, nn.Linear) else None
        if theirs is None:
            continue

        def count(_: Any, given: Any, __: Any, theirs: str = theirs) -> None:
            columns = given[0].detach().float().flatten(0, -2)
            sums[theirs] = sums.get(theirs, 0.0) + columns.square().sum(0)
            counts[theirs] = counts.get(theirs, 0) + len(columns)

        hooks.append(part.register_forward_hook(count))
    try:
        for item in calibration:
            follow(TorchModules(split), split, item, None, 1)
    finally:
        for hook in hooks:
            hook.remove()
    own = {names.get_name(name, try_suffixes=(".weight",)): name for name in linears}
    means = {name: (total / counts[name]).numpy() for name, total in sums.items()}
    return {name: _columns(own[name], mean, text.text_model.config) for name, mean in means.items()}


def _columns(name: str, mean: NDArray[np.float32], settings: Any) -> NDArray[np.float32]:
    """In the order of the columns that are written."""
    return in_turns(name, mean, settings) if ".out_proj." in name else mean


def _components(split: Split, precision: str, text_file: str, vision_file: str) -> dict[str, Component]:
    """All parts of a split; the embedding is a table inside the text model."""
    precisions = by_part(precision) if is_mixed(precision) else dict.fromkeys(("vision", "embedding", "text"), None)
    parts = {}
    for bucket, part in split.vision.items():
        name = f"vision_encoder_{bucket}" if bucket else "vision_encoder"
        pixels = tuple(
            ("image_tokens" if part.of_any_view else "tiles") if size is None else size for size in part.pixels
        )
        columns = split.width * (1 + sum(one.depth for one in split.features))
        features = TensorSpec("image_features", "float32", ("image_tokens", columns))
        parts[name] = Component(
            vision_file, (TensorSpec("pixel_values", "float32", pixels),), (features,), precisions["vision"]
        )
    ids = TensorSpec("input_ids", "int64", (1, "tokens"))
    embeds = TensorSpec("inputs_embeds", "float32", (1, "tokens", split.width))
    parts["token_embedding"] = Component(text_file, (ids,), (embeds,), precisions["embedding"])
    logits = TensorSpec("logits", "float32", (1, 1, split.vocab_size))
    parts["text_decoder"] = Component(text_file, (embeds,), (logits,), precisions["text"])
    return parts


def details(folder: Path) -> dict[str, Any]:
    """What the manifest keeps: types and fallbacks of both files; and how llama.cpp's own programs see a prompt.

    Args:
        folder: The bundle's, before it is sealed.
    """
    path = folder / DETAILS
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return {**found, "own_preprocessing": own_preprocessing(folder, found)}


LACKS = {
    "pack": "llama.cpp gives a LLaVA's tiles one after the other, with no newlines and the canvas's padding in: its "
    "programs would see other tokens than the model was trained on.",
    "blocks": "llama.cpp has such a mask (llama_set_causal_attn); this target does not write such a model yet, nor "
    "does its runtime switch the mask.",
}
"""Seen in llama.cpp's tools/mtmd/models/llava.cpp and mtmd.cpp (add_media)."""
TARGET = Target(
    name="gguf",
    precisions=PRECISIONS,
    extra="gguf",
    packages=PACKAGES,
    hosts=("Linux", "Darwin"),
    runtimes=("llamacpp",),
    write=write,
    parts=PARTS,
    details=details,
    knows=frozenset({"conv", "recurrent", "views"}),
    lacks=LACKS,
    tiny={"qwen2_5_vl": {"window": 112}},  # the only window llama.cpp knows
)
