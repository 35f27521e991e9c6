"""What onnxruntime-genai needs beside the graphs of an ONNX bundle: genai_config.json and two small graphs.

    onnx/genai_embedding.onnx   input_ids, image_features (K, D) -> inputs_embeds, the features at the image tokens
    onnx/genai_vision.onnx      pixel_values (M, 3, H, W) -> image_features (M * N, D)

They hold no weights of their own: the bundle's token embedding and vision encoder keep theirs in files beside the
graphs, and these read the same files. The package knows no Idefics3 and no InternVL, so the bundle takes the name of
the type whose pipeline is the plain one (pixels to features, features into the embeddings, positions 0, 1, 2, ...);
of that type's own image processor nothing is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.export.onnx_precision import name_shards, save
from edgekit.families import Split, read_optional_json
from edgekit.files import write_json
from edgekit.manifest import Component

CONFIG = "genai_config.json"
PLAIN = "gemma3"  # a model.type of onnxruntime-genai 0.18 that adds nothing of its own to the pipeline
VISION, EMBEDDING = "onnx/genai_vision.onnx", "onnx/genai_embedding.onnx"


def check_genai(split: Split) -> None:
    """Whether onnxruntime-genai can drive a model split like this.

    Raises:
        EdgekitError: it cannot, and why.
    """
    reasons = {
        **{f"it knows of no such model: {why}": True for why in split.needs().values()},
        "positions of three axes (M-RoPE) come from its own Qwen processor, which resizes images freely, and the "
        "bundle's vision encoder takes images of fixed sizes": split.position_axes == 3,
        **{f"its decoder has no input for {one.about}": True for one in split.features},
        "it takes one vision encoder, and there are several image sizes": len(split.vision) > 1,
        "it needs an end token, and the checkpoint has none": not split.eos_token_ids,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise EdgekitError(
            "onnxruntime-genai cannot run this family's bundle.",
            why="\n".join(found),
            fix="Export without --with-genai; edgekit run and transformers.js read the bundle as it is.",
        )


def write_genai(
    folder: Path, components: dict[str, Component], split: Split, config: dict[str, Any], in_place: bool
) -> None:
    """Make a written bundle one that `onnxruntime_genai.Model(folder)` loads.

    Args:
        folder: The bundle's, not sealed yet.
        components: Its graphs.
        split: What they were made from.
        config: The checkpoint's config.json.
        in_place: Whether the decoder appends to its cache in place.

    Raises:
        EdgekitError: the package cannot run this family.
    """
    check_genai(split)
    (vision,) = split.vision.values()
    embedding = _shared(folder / components["token_embedding"].file)
    save(_merging(embedding, split), folder / EMBEDDING)
    encoder = _shared(folder / components["vision_encoder"].file)
    save(_flat(encoder, vision.tokens, split.width), folder / VISION)
    name_shards(folder)
    generation = read_optional_json(folder / "generation_config.json")
    write_json(folder / CONFIG, genai_config(components, split, config, generation, in_place))


def genai_config(
    components: dict[str, Component],
    split: Split,
    config: dict[str, Any],
    generation: dict[str, Any],
    in_place: bool,
) -> dict[str, Any]:
    """genai_config.json as a JSON value.

    Args:
        components: The bundle's graphs.
        split: What they were made from.
        config: The checkpoint's config.json.
        generation: Its generation_config.json.
        in_place: Whether the decoder appends to its cache in place.
    """
    text = config.get("text_config", config)
    ids = {name: generation.get(name, text.get(name)) for name in ("bos_token_id", "pad_token_id")}
    context = int(text.get("max_position_embeddings", 2048))
    end = split.eos_token_ids
    heads = int(text["num_attention_heads"])
    taken = {spec.name for spec in components["text_decoder"].inputs}
    positions = {"position_ids": "position_ids"} if "position_ids" in taken else {}  # a name it lacks is an error
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": components["text_decoder"].file,
        "head_size": split.head_dim,
        "hidden_size": split.width,
        "inputs": {
            "inputs_embeds": "inputs_embeds",
            "attention_mask": "attention_mask",
            **positions,
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "num_attention_heads": heads,
        "num_hidden_layers": split.layers,
        "num_key_value_heads": split.kv_heads,
    }
    return {
        "model": {
            "type": PLAIN,
            "bos_token_id": int(ids["bos_token_id"] if ids["bos_token_id"] is not None else end[0]),
            "eos_token_id": end,
            "pad_token_id": int(ids["pad_token_id"] if ids["pad_token_id"] is not None else end[0]),
            "context_length": context,
            "vocab_size": split.vocab_size,
            "image_token_id": split.image_token_id,
            "decoder": decoder,
            "embedding": {
                "filename": EMBEDDING,
                "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
                "outputs": {"inputs_embeds": "inputs_embeds"},
            },
            "vision": {
                "filename": VISION,
                "inputs": {"pixel_values": "pixel_values"},
                "outputs": {"image_features": "image_features"},
            },
        },
        "search": {
            "do_sample": False,
            "max_length": context,
            "num_beams": 1,
            "past_present_share_buffer": in_place,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 1,
            "top_p": 1.0,
        },
    }


def _shared(path: Path) -> Any:
    """A bundle's graph, once its weights stand in files beside it that a second graph can read."""
    import onnx_ir

    if not path.with_name(f"{path.name}_data").exists():
        model = onnx_ir.load(path)
        path.unlink()
        save(model, path, beside=True)
    return onnx_ir.load(path)


def _merging(model: Any, split: Split) -> Any:
    """The embedding graph with image features scattered to the image tokens, in order."""
    import numpy as np
    import onnx_ir

    graph = model.graph
    (ids,), (plain,) = graph.inputs, graph.outputs
    features = onnx_ir.Value(
        name="image_features",
        type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT),
        shape=onnx_ir.Shape(["num_image_tokens", split.width]),
    )
    out = onnx_ir.Value(name="inputs_embeds", type=plain.type, shape=plain.shape)
    plain.name = "token_embeds"
    held = {}
    for name, value in {
        "image_token": [split.image_token_id],
        "one_row": [-1],
        "one_matrix": [-1, split.width],
    }.items():
        held[name] = onnx_ir.Value(
            name=f"genai_{name}",
            const_value=onnx_ir.tensor(np.array(value, dtype=np.int64), name=f"genai_{name}"),
            type=onnx_ir.TensorType(onnx_ir.DataType.INT64),
            shape=onnx_ir.Shape([len(value)]),
        )
        graph.register_initializer(held[name])
    nodes = [row := onnx_ir.node("Reshape", [ids, held["one_row"]])]
    nodes.append(here := onnx_ir.node("Equal", [row.outputs[0], held["image_token"]]))
    nodes.append(places := onnx_ir.node("NonZero", [here.outputs[0]]))
    nodes.append(turned := onnx_ir.node("Transpose", [places.outputs[0]], attributes={"perm": [1, 0]}))
    nodes.append(flat := onnx_ir.node("Reshape", [plain, held["one_matrix"]]))
    nodes.append(mixed := onnx_ir.node("ScatterND", [flat.outputs[0], turned.outputs[0], features]))
    nodes.append(shape := onnx_ir.node("Shape", [plain]))
    nodes.append(onnx_ir.node("Reshape", [mixed.outputs[0], shape.outputs[0]], outputs=[out]))
    graph.extend(nodes)
    graph.inputs.append(features)
    graph.outputs[0] = out
    return model


def _flat(model: Any, tokens: int, width: int) -> Any:
    """The vision graph for tiles (M, 3, H, W) -> (M * N, D)."""
    import numpy as np
    import onnx_ir

    graph = model.graph
    (batch,), (stacked,) = graph.inputs, graph.outputs
    shape = list(batch.shape)
    tiles = onnx_ir.Value(name="pixel_values", type=batch.type, shape=onnx_ir.Shape(["num_images", *shape[2:]]))
    out = onnx_ir.Value(name="image_features", type=stacked.type, shape=onnx_ir.Shape(["num_image_tokens", width]))
    batch.name, stacked.name = "pixel_values_of_prompts", "image_features_of_tiles"
    held = {}
    for name, value in {"first": [0], "matrix": [-1, width]}.items():
        held[name] = onnx_ir.Value(
            name=f"genai_{name}",
            const_value=onnx_ir.tensor(np.array(value, dtype=np.int64), name=f"genai_{name}"),
            type=onnx_ir.TensorType(onnx_ir.DataType.INT64),
            shape=onnx_ir.Shape([len(value)]),
        )
        graph.register_initializer(held[name])
    lift = onnx_ir.node("Unsqueeze", [tiles, held["first"]])
    graph.inputs[0] = tiles
    for user, place in list(batch.uses()):
        user.replace_input_with(place, lift.outputs[0])
    graph.insert_before(graph[0], lift)
    graph.append(onnx_ir.node("Reshape", [stacked, held["matrix"]], outputs=[out]))
    graph.outputs[0] = out
    return model
