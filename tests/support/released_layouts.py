"""The original architectures of released scorers, small and random, in plain torch under their own names."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, scaled_dot_product_attention

HEADS = 16


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """Every parameter drawn anew, norms included, so that a swapped or forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * (0.1 if parameter.ndim < 2 else 0.2)
            is_gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + drawn if is_gain else drawn)
    return module.eval()


class OpenClipBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, HEADS, batch_first=True)
        parts = [("c_fc", nn.Linear(width, 2 * width)), ("gelu", nn.GELU())]
        self.mlp = nn.Sequential(OrderedDict([*parts, ("c_proj", nn.Linear(2 * width, width))]))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class OpenClipTransformer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(OpenClipBlock(width) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class OpenClipVision(nn.Module):
    def __init__(self, width: int, patch: int, grid: int, projected: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(grid**2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = OpenClipTransformer(width)
        self.proj = nn.Parameter(torch.empty(width, projected))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """As in open_clip: fused attention, projections on the right, texts pooled at their largest token."""

    def __init__(self, *, vocabulary: int, length: int, patch: int = 8, grid: int = 3) -> None:
        super().__init__()
        self.visual = OpenClipVision(48, patch, grid, 24)
        self.token_embedding = nn.Embedding(vocabulary, 32)
        self.positional_embedding = nn.Parameter(torch.empty(length, 32))
        self.transformer = OpenClipTransformer(32)
        self.ln_final = nn.LayerNorm(32)
        self.text_projection = nn.Parameter(torch.empty(32, 24))
        self.logit_scale = nn.Parameter(torch.empty(()))

    def encode_text(self, tokens: Tensor) -> Tensor:
        count = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positional_embedding[:count]
        x = self.ln_final(self.transformer(x, torch.full((count, count), -math.inf).triu(1)))
        return x[torch.arange(len(x)), tokens.argmax(1)] @ self.text_projection

    @torch.no_grad()
    def cosines(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        return (normalize(self.visual(pixels), dim=1) * normalize(self.encode_text(tokens), dim=1)).sum(1)


class VitBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 2 * width), "fc2": nn.Linear(2 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            by_head(part, self.heads) for part in self.attn["qkv"](self.norm1(x)).chunk(3, -1)
        )
        x = x + self.attn["proj"](joined(scaled_dot_product_attention(query, key, value)))
        return x + self.mlp["fc2"](gelu(self.mlp["fc1"](self.norm2(x))))


class Vit(nn.Module):
    def __init__(self, width: int, heads: int, patch: int, grid: int) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, grid**2 + 1, width))
        self.blocks = nn.ModuleList(VitBlock(width, heads) for _ in range(2))
        self.norm = nn.LayerNorm(width, 1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class MedAttention(nn.Module):
    def __init__(self, width: int, seen: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        pieces = {"query": nn.Linear(width, width), "key": nn.Linear(seen, width)}
        self.self = nn.ModuleDict({**pieces, "value": nn.Linear(seen, width)})
        norm = nn.LayerNorm(width, 1e-12)
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": norm})

    def forward(self, x: Tensor, seen: Tensor, keep: Tensor | None) -> Tensor:
        query, key, value = (
            by_head(self.self[name](source), self.heads)
            for name, source in (("query", x), ("key", seen), ("value", seen))
        )
        mixed = joined(scaled_dot_product_attention(query, key, value, attn_mask=keep))
        return self.output["LayerNorm"](x + self.output["dense"](mixed))


class MedLayer(nn.Module):
    def __init__(self, width: int, seen: int, heads: int) -> None:
        super().__init__()
        self.attention = MedAttention(width, width, heads)
        self.crossattention = MedAttention(width, seen, heads)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 2 * width)})
        norm = nn.LayerNorm(width, 1e-12)
        self.output = nn.ModuleDict({"dense": nn.Linear(2 * width, width), "LayerNorm": norm})

    def forward(self, x: Tensor, seen: Tensor, keep: Tensor) -> Tensor:
        x = self.crossattention(self.attention(x, x, keep), seen, None)
        wide = gelu(self.intermediate["dense"](x))
        return self.output["LayerNorm"](x + self.output["dense"](wide))


class ReleasedImageReward(nn.Module):
    """As in the image-reward package: ``blip.visual_encoder``, ``blip.text_encoder``, ``mlp``."""

    def __init__(self, *, vocabulary: int, patch: int = 8, grid: int = 3) -> None:
        super().__init__()
        width, seen = 24, 32
        embeddings = nn.Module()
        embeddings.word_embeddings = nn.Embedding(vocabulary, width)
        embeddings.position_embeddings = nn.Embedding(40, width)
        embeddings.LayerNorm = nn.LayerNorm(width, 1e-12)
        embeddings.register_buffer("position_ids", torch.arange(40)[None])
        text_encoder = nn.Module()
        text_encoder.embeddings = embeddings
        layers = nn.ModuleList(MedLayer(width, seen, heads=12) for _ in range(2))
        text_encoder.encoder = nn.ModuleDict({"layer": layers})
        self.blip = nn.Module()
        self.blip.visual_encoder = Vit(seen, 16, patch, grid)
        self.blip.text_encoder = text_encoder
        self.blip.vision_proj, self.blip.text_proj = nn.Linear(seen, 8), nn.Linear(width, 8)
        self.mlp = nn.Module()
        self.mlp.layers = released_head(width)

    @torch.no_grad()
    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        seen, text = self.blip.visual_encoder(pixels), self.blip.text_encoder
        places = text.embeddings.position_embeddings(torch.arange(tokens.shape[1]))
        x = text.embeddings.LayerNorm(text.embeddings.word_embeddings(tokens) + places)
        for layer in text.encoder["layer"]:
            x = layer(x, seen, mask.bool()[:, None, None, :])
        return (self.mlp.layers(x[:, 0]).squeeze(1) - 0.16717362830052426) / 1.0333394966054072


def released_head(width: int) -> nn.Sequential:
    """As in the aesthetic predictor, whose names count the dropout."""
    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )


def by_head(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
