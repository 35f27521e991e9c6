"""The vision encoder of LFM2-VL: for images of one size, or for views of any size.

The encoder's table of positions is resampled to a view's grid of patches. For one size that is a constant; for any size
each patch brings the weights of its row and of its column in the table, which hang on nothing but the grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.families import ANY_GRID, Size, VisionPart

if TYPE_CHECKING:
    from torch import Tensor


def weighted_blocks(view: NDArray[np.float32], edge: int, factor: int) -> NDArray[np.float32]:
    """A view as an encoder of any view takes it.

    Args:
        view: Patches (rows, columns, L), whole blocks of them each way.
        edge: E, positions of the table each way.
        factor: F, patches of a block each way.

    Returns:
        (N, F * F, L + 2 E): the blocks row by row, each a token; a patch's pixels, and the weights of its row and of
        its column in the table.
    """
    rows, cols, _ = view.shape
    down = np.broadcast_to(resampling(rows, edge)[:, None], (rows, cols, edge))
    across = np.broadcast_to(resampling(cols, edge)[None], (rows, cols, edge))
    whole = np.concatenate([view, down, across], axis=-1)
    blocks = whole.reshape(rows // factor, factor, cols // factor, factor, -1).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(blocks.reshape(-1, factor**2, whole.shape[-1]))


def resampling(count: int, edge: int) -> NDArray[np.float32]:
    """Weights (count, edge) by which `edge` values become `count`: linear, antialiased where they become fewer.

    Source: ATen's UpSampleKernel.cpp, as torch.nn.functional.interpolate has them without aligned corners.
    """
    scale = edge / count
    centre = scale * (np.arange(count)[:, None] + 0.5)
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(edge) + 0.5 - centre) / max(scale, 1.0))
    found: NDArray[np.float32] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return found


def any_view(model: Any) -> VisionPart:
    """The encoder of any view: `weighted_blocks` (N, F * F, L + 2 E) -> (N, D).

    Args:
        model: Loaded; weights are shared.
    """
    import torch
    from torch import nn

    inner, vision, factor = model.model, model.config.vision_config, model.config.downsample_factor
    embeddings = inner.vision_tower.embeddings
    edge, length = embeddings.position_embedding_size, vision.num_channels * vision.patch_size**2

    class Tower(nn.Module):
        table: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.layers = embeddings.patch_embedding, inner.vision_tower.encoder.layers
            self.norm, self.projector = inner.vision_tower.post_layernorm, inner.multi_modal_projector
            self.register_buffer("table", embeddings.position_embedding.weight.detach(), persistent=False)

        def forward(self, pixel_values: Tensor) -> Tensor:
            pixels, down, across = torch.split(pixel_values.flatten(0, 1), [length, edge, edge], dim=-1)
            weights = (down[:, :, None] * across[:, None]).flatten(1)
            hidden = (self.embed(pixels) + weights @ self.table)[None]
            for layer in self.layers:
                hidden = layer(hidden, None)
            # Each block is an image of one token to the projector.
            blocks = self.norm(hidden).reshape(-1, factor, factor, vision.hidden_size)
            result: Tensor = self.projector(blocks).flatten(0, 2)
            return result

    return VisionPart(Tower().eval(), (None, factor**2, length + 2 * edge), ANY_GRID, 0)


def one_size(model: Any, size: Size) -> VisionPart:
    """The encoder of images of one size: patches (P, L) -> (N, D).

    Args:
        model: Loaded; weights are shared.
        size: (width, height) in pixels, whole blocks.
    """
    import torch
    from torch import nn

    inner, vision = model.model, model.config.vision_config
    rows, cols = size[1] // vision.patch_size, size[0] // vision.patch_size
    embeddings = inner.vision_tower.embeddings
    side = embeddings.position_embedding_size
    with torch.no_grad():
        table = embeddings.position_embedding.weight.reshape(side, side, -1)
        learned = embeddings.resize_positional_embeddings(table, torch.tensor([[rows, cols]]), rows * cols)

    class Tower(nn.Module):
        learned: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.layers = embeddings.patch_embedding, inner.vision_tower.encoder.layers
            self.norm, self.projector = inner.vision_tower.post_layernorm, inner.multi_modal_projector
            self.register_buffer("learned", learned, persistent=False)

        def forward(self, pixel_values: Tensor) -> Tensor:
            hidden = self.embed(pixel_values)[None] + self.learned
            for layer in self.layers:
                hidden = layer(hidden, None)
            result: Tensor = self.projector(self.norm(hidden).reshape(1, rows, cols, -1)).flatten(0, 2)
            return result

    length = vision.num_channels * vision.patch_size**2
    tokens = rows * cols // model.config.downsample_factor**2
    return VisionPart(Tower().eval(), (rows * cols, length), (1, 1, rows, cols), tokens)
