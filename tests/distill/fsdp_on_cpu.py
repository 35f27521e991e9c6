"""`python -m edgekit` on CPU processes that accelerate takes for a kind it shards.

accelerate 1.15 leaves FSDP out on CPUs without a word (AcceleratorState knows it for GPUs and the like only), while
torch's fully_shard itself works over gloo. Everything else of the run is as on GPUs.
"""

from __future__ import annotations

import os

import torch.distributed
from accelerate.state import PartialState
from accelerate.utils import DistributedType

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
torch.distributed.init_process_group("gloo")
PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)

from edgekit.cli import main  # noqa: E402

main()
