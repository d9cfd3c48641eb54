"""The speaker encoder: dilated grouped convolutions with squeeze-and-excitation, and attentive statistics pooling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Size of the encoder.

    Attributes:
        bands: Number of filterbank bands; WeSpeaker has 80.
        width: Channels of a layer.
        dilations: Dilation of each block; there are as many blocks.
        embedding: Size of the embedding.
        dropout: Dropout probability before the embedding.
    """

    bands: int = 80
    width: int = 256
    dilations: tuple[int, ...] = (1, 2, 3, 4)
    embedding: int = 192
    dropout: float = 0.1


class Block(nn.Module):
    """A residual block: three convolutions with squeeze-and-excitation (after ECAPA-TDNN, Desplanques et al. 2020)."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(width, width, 1),
            nn.ReLU(),
            nn.BatchNorm1d(width),
            nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation, groups=8),
            nn.ReLU(),
            nn.BatchNorm1d(width),
            nn.Conv1d(width, width, 1),
            nn.ReLU(),
            nn.BatchNorm1d(width),
        )
        self.weigh = nn.Sequential(nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, width), nn.Sigmoid())

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C T"]:
        """Return the block's output, as long as its input."""
        y = self.layers(x)
        out: Tensor = x + y * self.weigh(y.mean(dim=2)).unsqueeze(2)
        return out


class Encoder(nn.Module):
    """Computes a speaker embedding from filterbank features."""

    def __init__(self, config: NetworkConfig) -> None:
        """Build the network with fresh weights."""
        super().__init__()
        width = config.width
        self.first = nn.Sequential(nn.Conv1d(config.bands, width, 5, padding=2), nn.ReLU(), nn.BatchNorm1d(width))
        self.blocks = nn.ModuleList(Block(width, dilation) for dilation in config.dilations)
        joined = width * len(config.dilations)
        self.join = nn.Sequential(nn.Conv1d(joined, 2 * width, 1), nn.ReLU())
        self.attention = nn.Sequential(nn.Conv1d(6 * width, 64, 1), nn.Tanh(), nn.Conv1d(64, 2 * width, 1))
        self.last = nn.Sequential(
            nn.BatchNorm1d(4 * width), nn.Dropout(config.dropout), nn.Linear(4 * width, config.embedding)
        )

    def forward(self, features: Float[Tensor, "B T F"]) -> Float[Tensor, "B D"]:
        """Embed utterances; all frames are real, there is no padding."""
        x = self.first(features.transpose(1, 2))
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        x = self.join(torch.cat(outputs, dim=1))
        mean, deviation = _statistics(x, torch.ones_like(x[:, :1]) / x.shape[2])
        context = torch.cat((x, mean.expand_as(x), deviation.expand_as(x)), 1)
        weights = torch.softmax(self.attention(context), dim=2)
        embedding: Tensor = self.last(torch.cat(_statistics(x, weights), dim=1).squeeze(2))
        return embedding


def _statistics(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return weighted mean and standard deviation over time; the weights add up to 1."""
    mean = (x * weights).sum(dim=2, keepdim=True)
    variance = (x.square() * weights).sum(dim=2, keepdim=True) - mean.square()
    return mean, variance.clamp_min(1e-6).sqrt()


class AngularMargin(nn.Module):
    """The ArcFace loss (Deng et al. 2019): a softmax over cosines, with an angular margin for the right class."""

    def __init__(self, embedding: int, speakers: int, margin: float = 0.2, scale: float = 30.0) -> None:
        """Start with random class directions.

        Args:
            embedding: Size of an embedding.
            speakers: Number of classes.
            margin: Angular margin, in radians.
            scale: Factor of the cosines before the softmax.
        """
        super().__init__()
        self.directions = nn.Parameter(torch.empty(speakers, embedding))
        nn.init.xavier_uniform_(self.directions)
        self.margin, self.scale = margin, scale

    def forward(self, embeddings: Float[Tensor, "B D"], speakers: Int[Tensor, " B"]) -> Float[Tensor, ""]:
        """Return the cross entropy with the margin."""
        cosine = nn.functional.normalize(embeddings.float()) @ nn.functional.normalize(self.directions).T
        sine = (1 - cosine.square()).clamp_min(1e-7).sqrt()
        with_margin = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        # Beyond π the cosine of the larger angle would rise again: a straight line continues it there.
        with_margin = torch.where(
            cosine > math.cos(math.pi - self.margin), with_margin, cosine - math.sin(self.margin) * self.margin
        )
        target = nn.functional.one_hot(speakers, len(self.directions)).bool()
        loss: Tensor = nn.functional.cross_entropy(self.scale * torch.where(target, with_margin, cosine), speakers)
        return loss
