"""ONNX, in the file convention of transformers.js, so that a bundle also loads there.

    onnx/vision_encoder*.onnx          pixel_values (batch, num_images, 3, H, W) -> image_features
    onnx/embed_tokens*.onnx            input_ids -> inputs_embeds
    onnx/decoder_model_merged*.onnx    one graph for prefill (empty past) and decode

The vision graph has no pixel_attention_mask: positions are baked for whole square tiles, and a caller's mask is
ignored.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Component, TensorSpec
from edgekit.chat import read_chat_template
from edgekit.errors import EdgekitError, MissingExtraError
from edgekit.families import Split, read_image_processor, read_optional_json
from edgekit.files import write_json
from edgekit.quantisation import ONNX as ONNX_SCHEMES
from edgekit.registry import missing_extra

PRECISIONS = {
    "fp32": "float32",
    "fp16": "float16 weights and maths, float32 inputs and outputs",
    "int8": "dynamic QInt8, per channel, MatMul",
    "int4": "MatMulNBits: 4 bits in blocks of 32, asymmetric, accuracy_level 4; lm_head too; embeddings float32",
}
SCHEMES = ONNX_SCHEMES
EXTRA = "onnx"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
HOSTS = ("Linux", "Darwin", "Windows")
RUNTIMES = ("onnxruntime",)
ONE_FILE = 2**31 - 2**20  # protobuf's bound, with room for the graph itself
# transformers.js finds a precision by the file's suffix.
SUFFIX = {"fp32": "", "fp16": "_fp16", "int8": "_int8", "int4": "_q4"}
# Inputs are rounded to int8 too. Measured on a layer of 960 x 2560, one AVX-512 thread: 36 us a token against 114 us at
# level 0, 1.6 ms against 4.5 ms for 64 tokens, and the same relative error of the product, 0.0495: int4's own.
ACCURACY_LEVEL = 4
STEMS = {"vision_encoder": "vision_encoder", "token_embedding": "embed_tokens", "text_decoder": "decoder_model_merged"}


def write(split: Split, precision: str, folder: Path) -> tuple[dict[str, Component], dict[str, str]]:
    """Write the three graphs.

    Args:
        split: The modules, float32.
        precision: One of PRECISIONS.
        folder: The bundle's; graphs go to `onnx/` in it.
    Returns:
        The components by name, and the versions of the tools.
    Raises:
        MissingExtraError: a package of the extra is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        if not missing_extra(error, set(PACKAGES)):
            raise
        raise MissingExtraError("export to 'onnx'", str(error.name), EXTRA) from error
    (folder / "onnx").mkdir()
    _name_processor(folder)
    components = {}
    with _quiet():
        for name, module, inputs, names, shapes in _graphs(split):
            # Dynamic quantisation finds MatMul in the plain vision graph; the fused one hides it inside Attention.
            fuse = name == "text_decoder"
            file = f"onnx/{STEMS[name]}{SUFFIX[precision]}.onnx"
            model = _trace(module, inputs, shapes, names, fuse)
            _store(model, precision, folder / file)
            components[name] = Component(file, *(_specs(part, shapes) for part in names))
    return components, {package: version(package) for package in PACKAGES}


def _name_processor(folder: Path) -> None:
    """Put what transformers.js looks for where it looks for it.

    It takes image settings and the processor's class from preprocessor_config.json alone, and the chat template from
    tokenizer_config.json.
    """
    nested = read_optional_json(folder / "processor_config.json")
    settings = read_image_processor(folder)
    named = settings.get("processor_class") or nested.get("processor_class")
    if named:
        write_json(folder / "preprocessor_config.json", {**settings, "processor_class": named})
    tokenizer = read_optional_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", {**tokenizer, "chat_template": read_chat_template(folder)})


def _graphs(
    split: Split,
) -> Iterator[tuple[str, Any, dict[str, Any], tuple[dict[str, str], dict[str, str]], dict[str, list[Any]]]]:
    """(component, module, example inputs, (input names -> dtype, output names -> dtype), shapes by name)."""
    import torch
    from torch import nn

    class Vision(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = split.vision_encoder

        def forward(self, pixel_values: Any) -> Any:
            return self.encoder(pixel_values.flatten(0, 1))

    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = split.token_embedding

        def forward(self, input_ids: Any) -> Any:
            return self.embedding(input_ids)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = split.text_decoder

        def forward(self, inputs_embeds: Any, attention_mask: Any, position_ids: Any, past: list[Any]) -> Any:
            return self.decoder(inputs_embeds, attention_mask, position_ids, *past)

    # The names of free sizes matter: transformers.js shapes an empty cache by them (batch_size is the batch, others 0).
    size, width, vocab = split.image_size, split.width, split.vocab_size
    # Examples above 1 everywhere: torch.export takes a size of 0 or 1 for a constant.
    batch, tokens, past = 2, 5, 3
    yield (
        "vision_encoder",
        Vision(),
        {"pixel_values": torch.randn(batch, 2, 3, size, size)},
        ({"pixel_values": "float32"}, {"image_features": "float32"}),
        {
            "pixel_values": ["batch_size", "num_images", 3, size, size],
            "image_features": ["batch_size * num_images", split.image_tokens, width],
        },
    )
    yield (
        "token_embedding",
        Embedding(),
        {"input_ids": torch.zeros(batch, tokens, dtype=torch.int64)},
        ({"input_ids": "int64"}, {"inputs_embeds": "float32"}),
        {"input_ids": ["batch_size", "sequence_length"], "inputs_embeds": ["batch_size", "sequence_length", width]},
    )
    keys = [f"{layer}.{part}" for layer in range(split.layers) for part in ("key", "value")]
    cache = {"past_key_values": "past_sequence_length", "present": "past_sequence_length + sequence_length"}
    yield (
        "text_decoder",
        Decoder(),
        {
            "inputs_embeds": torch.randn(batch, tokens, width),
            "attention_mask": torch.ones(batch, past + tokens, dtype=torch.int64),
            "position_ids": torch.arange(past, past + tokens).expand(batch, -1).contiguous(),
            "past": [torch.randn(batch, split.kv_heads, past, split.head_dim) for _ in keys],
        },
        (
            {
                "inputs_embeds": "float32",
                "attention_mask": "int64",
                "position_ids": "int64",
                **{f"past_key_values.{key}": "float32" for key in keys},
            },
            {"logits": "float32", **{f"present.{key}": "float32" for key in keys}},
        ),
        {
            "inputs_embeds": ["batch_size", "sequence_length", width],
            "attention_mask": ["batch_size", "past_sequence_length + sequence_length"],
            "position_ids": ["batch_size", "sequence_length"],
            "logits": ["batch_size", "sequence_length", vocab],
            **{
                f"{prefix}.{key}": ["batch_size", split.kv_heads, length, split.head_dim]
                for prefix, length in cache.items()
                for key in keys
            },
        },
    )


def _trace(
    module: Any,
    inputs: dict[str, Any],
    shapes: dict[str, list[Any]],
    names: tuple[dict[str, str], dict[str, str]],
    fuse: bool,
) -> Any:
    """The graph as an onnx_ir model, with the convention's names and readable free sizes."""
    import onnx_ir
    from torch.export import Dim
    from transformers.exporters import OnnxConfig, OnnxExporter

    def free(name: str) -> dict[int, Any]:
        return {axis: Dim.DYNAMIC for axis, size in enumerate(shapes[name]) if isinstance(size, str)}

    dynamic: dict[str, Any] = {name: free(name) for name in inputs if name != "past"}
    if "past" in inputs:
        dynamic["past"] = [free("past_key_values.0.key")] * len(inputs["past"])
    config = OnnxConfig(dynamic_shapes=dynamic, ort_fusions="cpu" if fuse else None)
    model = OnnxExporter().export(module.eval(), inputs, config).program
    for values, wanted in ((model.graph.inputs, names[0]), (model.graph.outputs, names[1])):
        for value, name in zip(values, wanted, strict=True):
            value.name = name
            value.shape = onnx_ir.Shape(shapes[name])
    return model


def _store(model: Any, precision: str, path: Path) -> None:
    """Convert to the precision and write one self-contained file.

    Raises:
        EdgekitError: the float32 graph has more weights than one ONNX file can hold.
    """
    import onnx
    import onnx_ir

    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None
    )
    if weights >= ONE_FILE:
        raise EdgekitError(
            f"{path.name} would hold {weights / 1e9:.1f} GB of float32 weights.",
            why=f"One ONNX file holds {ONE_FILE / 1e9:.1f} GB at most; several files are not written yet.",
            fix="Export a smaller student.",
        )

    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        plain = path.with_suffix(".plain.onnx")
        onnx_ir.save(model, plain)
        try:
            # No DefaultTensorType surprises: the graph knows its types, so the quantiser's own inference is enough.
            quantize_dynamic(
                plain, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8
            )
        finally:
            plain.unlink()
        return
    if precision == "int4":
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        scheme = SCHEMES["int4"]
        quantiser = MatMulNBitsQuantizer(
            onnx_ir.serde.serialize_model(model),
            bits=scheme.bits,
            block_size=scheme.block,
            is_symmetric=scheme.symmetric,
            accuracy_level=ACCURACY_LEVEL,
        )
        quantiser.process()
        onnx.save(quantiser.model.model, path)
        return
    if precision == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        proto = onnx_ir.serde.serialize_model(model)
        onnx.save(convert_float_to_float16(proto, keep_io_types=True, disable_shape_infer=True), path)
        return
    onnx_ir.save(model, path)


def _specs(names: dict[str, str], shapes: dict[str, list[Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, dtype, tuple(shapes[name])) for name, dtype in names.items())


class Components:
    """A bundle's graphs in ONNX Runtime, for parity at export."""

    def __init__(self, folder: Path, components: dict[str, Component]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self.sessions = {
                name: onnxruntime.InferenceSession(folder / part.file, options, providers=["CPUExecutionProvider"])
                for name, part in components.items()
            }
        except Exception as error:  # onnxruntime raises types of its own, from C++, with no common base
            raise EdgekitError("ONNX Runtime does not load what was exported.", why=str(error)[:500]) from error
        self.cache_names = [spec.name for spec in components["text_decoder"].inputs if spec.name.startswith("past_")]

    def encode_image(self, pixel_values: Any) -> Any:
        """(M, 3, H, W) -> (M, N, D)."""
        return self.sessions["vision_encoder"].run(None, {"pixel_values": pixel_values[None]})[0]

    def embed(self, ids: Any) -> Any:
        """(1, T) -> (1, T, D)."""
        return self.sessions["token_embedding"].run(None, {"input_ids": ids})[0]

    def decode(self, embeds: Any, mask: Any, positions: Any, past: list[Any]) -> tuple[Any, list[Any]]:
        """-> logits (1, T, V) and the grown cache."""
        feeds = {"inputs_embeds": embeds.astype(np.float32), "attention_mask": mask, "position_ids": positions}
        logits, *grown = self.sessions["text_decoder"].run(
            None, {**feeds, **dict(zip(self.cache_names, past, strict=True))}
        )
        return logits, grown


def open_components(folder: Path, components: dict[str, Component]) -> Components:
    """Load the graphs back from their files."""
    return Components(folder, components)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporters' chatter (they print progress to stdout, which belongs to results)."""
    import contextlib
    import io

    nbits = "onnxruntime.quantization.matmul_nbits_quantizer"
    names = ("torch.onnx", "transformers", "onnxscript", "root", "torch.export", nbits)
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Some of them set up the whole program's logging when they are imported, unless they find it set up.
    silent = logging.NullHandler()
    logging.getLogger().addHandler(silent)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        logging.getLogger().removeHandler(silent)
