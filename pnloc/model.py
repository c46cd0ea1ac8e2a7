"""The cross-attention localizer.

Letters: B studies, R regions, W words, P phrases, K places, A attributes, E word vector, D joint
width, F region feature. v_r in R^D is a region, t_w in R^D a word, q_a in R^D the query of an
attribute; all three have length 1.

    word to image   alpha_wr = softmax_r(t_w . v_r / tau + lambda log s_r)
                    c_w = sum_r alpha_wr v_r;  score(report, image) = mean_w cos(t_w, c_w)
    image only      beta_ar = softmax_r(q_a . v_r / tau + lambda log s_r)
                    logit_a = u_a . sum_r beta_ar v_r / tau + b_a
    place           pi_rk = softmax_k(p_k . v_r + log N(x_r; mu_k, sigma_k)),  x_r a region's centre
    phrase to image gamma_pr = beta_0r sum_{k in p} pi_rk / sum_r' beta_0r' sum_{k in p} pi_r'k

s_r is the detector's score of the region, lambda >= 0 is learned. The first attribute, beta_0, is
the pneumonia itself: gamma is its posterior, by Bayes' rule, once a phrase has named some of the
six PLACES. In the form of the paper's reviews (`ModelConfig.reviewed`) words are the names of
attributes, and the image alone weighs its regions by those that it predicts: with their
probabilities P_a, beta_0r becomes beta_0r sum_a P_a alpha_ar, scaled to a sum of 1.

The cross-attention follows Gupta et al. 2020 and Wei et al. 2020; widths, temperatures,
the detector's score as a prior and the places are ours (book, Fidelity).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnloc.config import ModelConfig

PNEUMONIA = "pneumonia"
# The six places of the lungs, side and zone, with their initial centres: x and y relative to the
# picture, which shows the right lung on its left.
PLACES = {
    ("right", "upper"): (0.30, 0.28),
    ("right", "middle"): (0.28, 0.48),
    ("right", "lower"): (0.28, 0.68),
    ("left", "upper"): (0.70, 0.28),
    ("left", "middle"): (0.72, 0.48),
    ("left", "lower"): (0.72, 0.68),
}
APPENDED = 9  # to the pooled features of a region: geometry, score, mask (pnloc.regions)
SPREAD = 0.12  # initial standard deviation of a place, relative to the picture


@dataclass(frozen=True)
class Batch:
    """B studies. Padding is a word index of -1 and a phrase without a place.

    features [B, R, F], log_scores [B, R], valid [B, R] bool, centres [B, R, 2] (x, y relative to
    the picture), words [B, W] int64, phrases [B, P, K] (1 for each place that a phrase allows),
    labels [B, A] (1 present, 0 absent), weights [B, A] (0 where unknown).
    """

    features: Tensor
    log_scores: Tensor
    valid: Tensor
    centres: Tensor
    words: Tensor
    phrases: Tensor
    labels: Tensor
    weights: Tensor


class ImageDropout(nn.Dropout):
    """Dropout of the same features in all regions [B, R, D] of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return x * F.dropout(x.new_ones(len(x), 1, x.shape[-1]), self.p, self.training)


class CrossAttention(nn.Module):
    """Regions, words and attributes in one joint space: the equations at the head of the module."""

    def __init__(self, features: int, vectors: Tensor, names: Tensor, config: ModelConfig) -> None:
        """F region features; fixed vectors of the words [V, E] and the attributes' names [A, E]."""
        super().__init__()
        width, size = config.width, vectors.shape[1]
        self.tau, self.named = config.tau, config.text == "attributes"
        self.features = features - (0 if config.geometry else APPENDED)
        self.regions = nn.Sequential(
            nn.LayerNorm(self.features, elementwise_affine=False),
            nn.Linear(self.features, width),
            nn.GELU(),
            ImageDropout(config.dropout),
            nn.Linear(width, width),
        )
        self.register_buffer("vectors", vectors.float().clone())
        self.context = nn.Linear(3 * size, size)
        self.words = nn.Linear(size, width)
        self.register_buffer("names", names.float().clone())
        self.queries = nn.Linear(size, width)
        self.offsets = nn.Parameter(0.02 * torch.randn(len(names), width))
        self.classifier = nn.Parameter(torch.zeros(len(names), width))
        self.bias = nn.Parameter(torch.zeros(len(names)))
        self.prior = nn.Parameter(torch.tensor(1.0))
        self.middles = nn.Parameter(torch.tensor(list(PLACES.values())))
        self.spreads = nn.Parameter(torch.full((len(PLACES), 2), SPREAD).log())
        self.places = nn.Parameter(torch.zeros(len(PLACES), width))

    def encode_regions(self, features: Tensor) -> Tensor:
        """Features [B, R, F] -> v [B, R, D] of length 1."""
        return F.normalize(self.regions(features[..., : self.features].float()), dim=-1)

    def encode_words(self, words: Tensor) -> Tensor:
        """Word indices [B, W] (-1: padding) -> t [B, W, D] of length 1, arbitrary for padding.

        Each word sees its two neighbours through a residual layer; padding counts as zero. Where
        words are names of attributes, an index is that of an attribute, and no other is seen.
        """
        if self.named:
            return F.normalize(self.words(self.names[words.clamp_min(0)]), dim=-1)
        padded = F.pad(words, (1, 1), value=-1)
        vectors = self.vectors[padded.clamp_min(0)] * (padded >= 0).unsqueeze(-1)
        around = torch.cat([vectors[:, :-2], vectors[:, 1:-1], vectors[:, 2:]], dim=-1)
        return F.normalize(self.words(vectors[:, 1:-1] + torch.relu(self.context(around))), dim=-1)

    def attribute_queries(self) -> Tensor:
        """q [A, D] of length 1: word vectors of the attributes' names, and a learned offset."""
        return F.normalize(self.queries(self.names) + self.offsets, dim=-1)

    def attend(self, queries: Tensor, regions: Tensor, log_scores: Tensor, valid: Tensor) -> Tensor:
        """Attention [..., Q, R] of queries [..., Q, D] over regions [..., R, D].

        It sums to 1 over valid regions; without any, it is 0. log_scores, valid [..., R].
        """
        logits = queries @ regions.transpose(-1, -2) / self.tau
        logits = logits + (self.prior.clamp_min(0) * log_scores).unsqueeze(-2)
        allowed = valid.unsqueeze(-2)
        logits = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)
        return torch.softmax(logits, dim=-1) * allowed

    def text_attention(self, batch: Batch, regions: Tensor | None = None) -> Tensor:
        """alpha [B, W, R] of each report's words over its own image's regions; 0 for padding.

        Here and below, `regions` is v [B, R, D] where that has been computed already.
        """
        regions = self.encode_regions(batch.features) if regions is None else regions
        alpha = self.attend(self.encode_words(batch.words), regions, batch.log_scores, batch.valid)
        return alpha * (batch.words >= 0).unsqueeze(-1)

    def place_probabilities(self, regions: Tensor, centres: Tensor) -> Tensor:
        """pi [B, R, K] of regions v [B, R, D] with centres [B, R, 2]; sums to 1 over the places."""
        away = (centres.unsqueeze(-2) - self.middles) / self.spreads.exp()
        density = -away.square().sum(-1) / 2 - self.spreads.sum(-1)
        return torch.softmax(density + regions @ self.places.T, dim=-1)

    def phrase_attention(
        self, batch: Batch, regions: Tensor | None = None, beta: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """gamma [B, P, R] of each phrase over its own image's regions, and likelihoods [B, P].

        A phrase's likelihood is sum_r beta_0r sum_{k in p} pi_rk, the probability that the image
        gives to its places. Padding has gamma 0 and likelihood 1. beta is beta_0 [B, 1, R] where
        that has been computed already.
        """
        regions = self.encode_regions(batch.features) if regions is None else regions
        if beta is None:
            beta = self.attend(self.attribute_queries()[:1], regions, batch.log_scores, batch.valid)
        places = self.place_probabilities(regions, batch.centres)
        joint = beta * (batch.phrases @ places.transpose(1, 2)).clamp_min(1e-6)
        real = batch.phrases.any(-1) & batch.valid.any(-1, keepdim=True)
        likelihood = torch.where(real, joint.sum(-1), 1.0)
        return joint / likelihood.unsqueeze(-1) * real.unsqueeze(-1), likelihood

    def match(self, batch: Batch, regions: Tensor | None = None) -> Tensor:
        """score [B reports, B images], as in the equations; 0 for reports without words.

        Training takes the same numbers from `match_groups`, which needs far less memory.
        """
        v = self.encode_regions(batch.features) if regions is None else regions
        t, real = self.encode_words(batch.words), batch.words >= 0
        alpha = self.attend(t[:, None], v[None], batch.log_scores[None], batch.valid[None])
        c = torch.einsum("ijwr,jrd->ijwd", alpha, v)
        cosine = F.cosine_similarity(t[:, None], c, dim=-1) * real[:, None]
        return cosine.sum(-1) / real.sum(1, keepdim=True).clamp_min(1)

    def match_groups(self, batch: Batch, regions: Tensor | None, groups: int) -> Tensor:
        """The same within G groups of b consecutive studies: [G, b reports, b images].

        The cosines come from inner products, so that no c [G, b, b W, D] is ever formed.
        """
        regions = self.encode_regions(batch.features) if regions is None else regions
        real = batch.words >= 0
        b, (r, width), w = len(regions) // groups, regions.shape[1:], real.shape[1]
        words = self.encode_words(batch.words).view(groups, b * w, width)
        products = regions.view(groups, b * r, width) @ words.transpose(1, 2)
        products = products.view(groups, b, r, b * w)
        bias = self.prior.clamp_min(0) * batch.log_scores
        bias = bias.masked_fill(~batch.valid, torch.finfo(bias.dtype).min).view(groups, b, r, 1)
        alpha = torch.softmax(torch.add(bias, products, alpha=1 / self.tau), dim=2)
        along = (alpha * products).sum(2)
        gram = (regions @ regions.transpose(1, 2)).view(groups, b, r, r)
        length = (alpha * (gram @ alpha)).sum(2).clamp_min(1e-12).sqrt()
        cosine = along / length * batch.valid.any(1).view(groups, b, 1)
        shares = real / real.sum(1, keepdim=True).clamp_min(1)
        return (cosine.view(groups, b, b, w) * shares.view(groups, 1, b, w)).sum(-1).transpose(1, 2)

    def image_only(self, batch: Batch, regions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """beta [B, A, R] and attribute logits [B, A]; reads no report."""
        regions = self.encode_regions(batch.features) if regions is None else regions
        queries = self.attribute_queries().expand(len(regions), -1, -1)
        beta = self.attend(queries, regions, batch.log_scores, batch.valid)
        attended = beta @ regions
        logits = (attended * self.classifier).sum(-1) / self.tau + self.bias
        if self.named:
            every = torch.arange(1, len(self.names), device=regions.device)
            words = self.encode_words(every).expand(len(regions), -1, -1)
            alpha = self.attend(words, regions, batch.log_scores, batch.valid)
            joint = beta[:, :1] * (torch.sigmoid(logits[:, None, 1:]) @ alpha).clamp_min(1e-12)
            beta = torch.cat([joint / joint.sum(-1, keepdim=True).clamp_min(1e-12), beta[:, 1:]], 1)
        return beta, logits
