"""Training phases, one LightningModule each."""

from diffopd.phase.autoencoder import AutoencoderPhase
from diffopd.phase.distill import DistillPhase
from diffopd.phase.grpo import GRPOPhase
from diffopd.phase.nft import NFTPhase
from diffopd.phase.pretrain import PretrainPhase
from diffopd.phase.reward_learning import RewardPhase

__all__ = ["AutoencoderPhase", "DistillPhase", "GRPOPhase", "NFTPhase", "PretrainPhase", "RewardPhase"]
