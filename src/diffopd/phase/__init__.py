"""Training phases, one LightningModule each."""

from diffopd.phase.autoencoder import AutoencoderPhase
from diffopd.phase.distill import DistillPhase
from diffopd.phase.dmd import DMDPhase
from diffopd.phase.grpo import GRPOPhase
from diffopd.phase.nft import NFTPhase
from diffopd.phase.online_dpo import OnlineDPOPhase
from diffopd.phase.preference import PreferencePhase
from diffopd.phase.pretrain import PretrainPhase
from diffopd.phase.reward_learning import RewardPhase
from diffopd.phase.scored_phase import ScoredPhase
from diffopd.phase.self_opd import SelfOPDPhase
from diffopd.phase.sft import SFTPhase
from diffopd.phase.tdm import TDMPhase

__all__ = [
    "AutoencoderPhase",
    "DMDPhase",
    "DistillPhase",
    "GRPOPhase",
    "NFTPhase",
    "OnlineDPOPhase",
    "PreferencePhase",
    "PretrainPhase",
    "RewardPhase",
    "SFTPhase",
    "ScoredPhase",
    "SelfOPDPhase",
    "TDMPhase",
]
