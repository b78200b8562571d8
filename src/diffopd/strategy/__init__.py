"""How the processes of a training share its work: chosen by ``trainer=ddp`` or ``trainer=sharded``."""

from diffopd.strategy.ddp import DataParallel
from diffopd.strategy.sharded import Sharded

__all__ = ["DataParallel", "Sharded"]
