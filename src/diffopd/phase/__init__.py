"""Training phases, one LightningModule each."""

from diffopd.phase.autoencoder import AutoencoderPhase
from diffopd.phase.distill import DistillPhase
from diffopd.phase.nft import NFTPhase
from diffopd.phase.pretrain import PretrainPhase

__all__ = ["AutoencoderPhase", "DistillPhase", "NFTPhase", "PretrainPhase"]
