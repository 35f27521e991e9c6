"""The vision tower of Qwen2.5-VL, Qwen3-VL and Qwen3.5 for one image size: what hangs on the size becomes constants.

Those are the order of the patches by attention window, the rotary tables, the learned positions resampled to the grid,
and the bounds of the windows. The patch embedding, a convolution as large as its input, becomes a matrix product.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.families import Size, Split, VisionPart
from edgekit.families._modules import decoder, sizes_of
from edgekit.families.decoding import ExtraInput, State, positions

if TYPE_CHECKING:
    from torch import Tensor, nn


def split_of(
    model: Any,
    text_model: Any,
    sizes: Sequence[Size],
    features: tuple[ExtraInput, ...],
    states: tuple[State, ...] = (),
) -> Split:
    """The split of a Qwen-VL.

    Args:
        model: Loaded.
        text_model: Its decoder without the head.
        sizes: (width, height) in pixels of each vision encoder.
        features: Inputs of the decoder that the tower's further outputs fill.
        states: `Split.states`, where they are not a key and a value for each layer.
    """
    names = [f"{width}x{height}" for width, height in sizes] if len(sizes) > 1 else [""]
    text, text_decoder = decoder(text_model, model.lm_head, features=features, states=states)
    said = sizes_of(model, model.config.text_config)
    return Split(
        vision={name: vision_part(model.model.visual, size) for name, size in zip(names, sizes, strict=True)},
        token_embedding=model.get_input_embeddings(),
        text=text,
        text_decoder=text_decoder,
        extra_inputs=(positions(3), *features),
        **(said | {"states": states} if states else said),
    )


def vision_part(visual: Any, size: Size) -> VisionPart:
    """The tower baked for images of one size.

    Args:
        visual: Qwen2_5_VisionTransformerPretrainedModel or Qwen3VLVisionModel; weights are shared.
        size: (width, height) in pixels, whole blocks of merged patches.
    """
    config = visual.config
    grid = (1, size[1] // config.patch_size, size[0] // config.patch_size)
    patches = grid[1] * grid[2]
    length = config.in_channels * config.temporal_patch_size * config.patch_size**2
    return VisionPart(_tower(visual, grid).eval(), (patches, length), grid, patches // config.spatial_merge_size**2)


def _tower(visual: Any, grid: tuple[int, int, int]) -> nn.Module:
    import torch
    from torch import nn
    from transformers.vision_utils import get_vision_position_ids

    merge = visual.spatial_merge_size
    sizes = torch.tensor([grid])
    tokens = grid[1] * grid[2] // merge**2
    order, bounds = _windows(visual, sizes) if hasattr(visual, "window_size") else (torch.arange(tokens), None)
    patch_order = (order[:, None] * merge**2 + torch.arange(merge**2)).flatten()
    full_layers = getattr(visual, "fullatt_block_indexes", range(len(visual.blocks)))
    deep_layers = list(getattr(visual, "deepstack_visual_indexes", ()))

    class Tower(nn.Module):
        cos: Tensor
        sin: Tensor
        patch_order: Tensor
        back: Tensor
        learned: Tensor | None

        def __init__(self) -> None:
            super().__init__()
            self.embed = _as_linear(visual.patch_embed.proj)
            self.blocks, self.merger = visual.blocks, visual.merger
            self.deep_mergers = visual.deepstack_merger_list if deep_layers else nn.ModuleList()
            with torch.no_grad():
                tables = visual.rotary_pos_emb(self.embed.weight, get_vision_position_ids(sizes, merge))
            for name, table in zip(("cos", "sin"), tables, strict=True):
                self.register_buffer(name, table[patch_order].float(), persistent=False)
            self.register_buffer("patch_order", patch_order, persistent=False)
            self.register_buffer("back", order.argsort(), persistent=False)
            self.register_buffer("learned", _learned_positions(visual, sizes), persistent=False)
            self.windows = None if bounds is None else _windows_of(bounds)

        def forward(self, pixel_values: Tensor) -> Any:
            hidden = self.embed(pixel_values)
            if self.learned is not None:
                hidden = hidden + self.learned
            if self.windows is not None:
                hidden = hidden[self.patch_order]
            deep = []
            for number, block in enumerate(self.blocks):
                windows = None if number in full_layers else self.windows
                hidden = hidden + _attend(block.attn, block.norm1(hidden), self.cos, self.sin, windows)
                hidden = hidden + block.mlp(block.norm2(hidden))
                if number in deep_layers:
                    deep.append(self.deep_mergers[deep_layers.index(number)](hidden))
            merged = self.merger(hidden)
            if self.windows is not None:
                merged = merged[self.back]
            return (merged, torch.stack(deep)) if deep else merged

    return Tower()


def _attend(attention: Any, hidden: Tensor, cos: Tensor, sin: Tensor, windows: Any) -> Tensor:
    """Self-attention over patches (P, D), each within its window."""
    from torch.nn.functional import scaled_dot_product_attention

    count = hidden.shape[0]
    # (3, H, P, D_head)
    query, key, value = attention.qkv(hidden).reshape(count, 3, attention.num_heads, -1).permute(1, 2, 0, 3).unbind(0)
    query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
    if windows is None:
        mixed = scaled_dot_product_attention(query[None], key[None], value[None], scale=attention.scaling)[0]
    else:
        query, key, value = windows.cut(query), windows.cut(key), windows.cut(value)
        mixed = windows.join(
            scaled_dot_product_attention(query, key, value, attn_mask=windows.bias, scale=attention.scaling)
        )
    result: Tensor = attention.proj(mixed.transpose(0, 1).reshape(count, -1))
    return result


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    import torch

    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def _windows_of(bounds: list[int]) -> nn.Module:
    """Cuts patches (H, P, D) that stand in the windows' order into windows (W, H, S, D), and joins them again.

    Windows at the image's edge may be smaller: they are filled up to S with a patch that the bias hides.
    """
    import torch
    from torch import nn

    lengths = [b - a for a, b in itertools.pairwise(bounds)]
    longest, even = max(lengths), len(set(lengths)) == 1
    place = torch.zeros(len(lengths), longest, dtype=torch.int64)
    bias = torch.full((len(lengths), 1, 1, longest), float("-inf"))
    for row, (start, length) in enumerate(zip(bounds, lengths, strict=False)):
        place[row, :length] = torch.arange(start, start + length)
        bias[row, ..., :length] = 0.0
    seats = torch.cat([row * longest + torch.arange(length) for row, length in enumerate(lengths)])

    class Windows(nn.Module):
        place: Tensor
        seats: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("place", place.flatten(), persistent=False)
            self.register_buffer("seats", seats, persistent=False)
            self.register_buffer("bias", None if even else bias, persistent=False)

        def cut(self, x: Tensor) -> Tensor:
            filled = x if even else x[:, self.place]
            return filled.reshape(x.shape[0], len(lengths), longest, -1).transpose(0, 1)

        def join(self, x: Tensor) -> Tensor:
            flat = x.transpose(0, 1).flatten(1, 2)
            return flat if even else flat[:, self.seats]

    return Windows()


def _windows(visual: Any, sizes: Tensor) -> tuple[Tensor, list[int]]:
    """The order of the merged patches by window, and where the windows end, in patches."""
    from transformers.vision_utils import get_vision_window_index

    order, bounds = get_vision_window_index(sizes, visual.spatial_merge_size, visual.window_size, visual.patch_size)
    return order, bounds.tolist()


def _learned_positions(visual: Any, sizes: Tensor) -> Tensor | None:
    """Qwen3-VL's position embeddings (P, D), resampled to the grid; None for a tower that has none."""
    import torch

    if not hasattr(visual, "pos_embed"):
        return None
    from transformers.vision_utils import get_vision_interpolation_indices_and_weights

    index, weights = get_vision_interpolation_indices_and_weights(
        sizes,
        num_grid_per_side=visual.num_grid_per_side,
        mode=visual.interpolation_mode,
        align_corners=visual.interpolation_align_corners,
        spatial_merge_size=visual.spatial_merge_size,
    )
    with torch.no_grad():
        positions: Tensor = (visual.pos_embed(index) * weights[:, :, None]).sum(1)
    return positions


def _as_linear(convolution: Any) -> nn.Linear:
    from torch import nn

    weight = convolution.weight.detach().flatten(1)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=convolution.bias is not None)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if convolution.bias is not None:
        linear.bias = convolution.bias
    return linear
