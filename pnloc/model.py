"""The cross-attention localizer.

Letters: B studies, R regions, W words, P phrases, K places, A attributes, E word vector, D joint width, F region feature.
v_r in R^D is a region, t_w in R^D a word, q_a in R^D the query of an attribute; all three have length 1.

    word to image   alpha_wr = softmax_r(t_w . v_r / tau + lambda log s_r)
                    c_w = sum_r alpha_wr v_r;  score(report, image) = mean_w cos(t_w, c_w)
    image only      beta_ar = softmax_r(q_a . v_r / tau + lambda log s_r)
                    logit_a = u_a . sum_r beta_ar v_r + b_a
    place           pi_rk = softmax_k(p_k . v_r + log N(x_r; mu_k, sigma_k)),  x_r the centre of region r
    phrase to image gamma_pr = beta_0r sum_{k in p} pi_rk / sum_r' beta_0r' sum_{k in p} pi_r'k

s_r is the detector's score of the region, lambda >= 0 is learned. The first attribute, beta_0, is the pneumonia itself: gamma is what Bayes' rule
makes of it once a phrase has said in which of the six places (pnloc.phrases.CELLS) the opacity lies. The
cross-attention follows Gupta et al. 2020 and Wei et al. 2020; widths, temperatures, the detector's score as
a prior and the places are ours (book, Fidelity).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnloc.config import ModelConfig

PNEUMONIA = "pneumonia"
# Where the six places of pnloc.phrases.CELLS lie to begin with, x and y relative to the picture; the right lung is on its left.
PLACES = ((0.30, 0.28), (0.28, 0.48), (0.28, 0.68), (0.70, 0.28), (0.72, 0.48), (0.72, 0.68))
SPREAD = 0.12  # and how far they reach (standard deviation)


@dataclass(frozen=True)
class Batch:
    """B studies. A word index of -1 is padding; a report without words is a row of -1. A phrase without a place is padding.

    features [B, R, F], log_scores [B, R], valid [B, R] bool, centres [B, R, 2] (x, y relative to the picture),
    words [B, W] int64, phrases [B, P, K] (1 for each place that a phrase allows),
    labels [B, A] (1 present, 0 absent), weights [B, A] (0 where not known).
    """

    features: Tensor
    log_scores: Tensor
    valid: Tensor
    centres: Tensor
    words: Tensor
    phrases: Tensor
    labels: Tensor
    weights: Tensor


class CrossAttention(nn.Module):
    """Regions, words and attributes in one joint space; see the head of this module for the equations."""

    def __init__(self, features: int, vectors: Tensor, names: Tensor, config: ModelConfig) -> None:
        """F region features; word vectors [V, E], kept fixed; word vectors of the attributes' names [A, E]."""
        super().__init__()
        width, size = config.width, vectors.shape[1]
        self.tau = config.tau
        self.regions = nn.Sequential(
            nn.LayerNorm(features),
            nn.Linear(features, 2 * width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * width, width),
        )
        self.register_buffer("vectors", vectors.float().clone())
        self.context = nn.Conv1d(size, size, 3, padding=1, groups=1)
        self.words = nn.Linear(size, width)
        self.register_buffer("names", names.float().clone())
        self.queries = nn.Linear(size, width)
        self.offsets = nn.Parameter(0.02 * torch.randn(len(names), width))
        self.classifier = nn.Parameter(torch.zeros(len(names), width))
        self.bias = nn.Parameter(torch.zeros(len(names)))
        self.prior = nn.Parameter(torch.tensor(1.0))
        self.middles = nn.Parameter(torch.tensor(PLACES))
        self.spreads = nn.Parameter(torch.full((len(PLACES), 2), SPREAD).log())
        self.places = nn.Parameter(torch.zeros(len(PLACES), width))

    def encode_regions(self, features: Tensor) -> Tensor:
        """Features [B, R, F] -> v [B, R, D] of length 1."""
        return F.normalize(self.regions(features.float()), dim=-1)

    def encode_words(self, words: Tensor) -> Tensor:
        """Word indices [B, W] (-1 is padding) -> t [B, W, D] of length 1; padding words give arbitrary vectors.

        Each word sees its two neighbours through a residual convolution; padding counts as zero.
        """
        known = (words >= 0).unsqueeze(-1)
        vectors = self.vectors[words.clamp_min(0)] * known
        if words.shape[1]:
            vectors = vectors + torch.relu(self.context(vectors.transpose(1, 2)).transpose(1, 2)) * known
        return F.normalize(self.words(vectors), dim=-1)

    def attribute_queries(self) -> Tensor:
        """q [A, D] of length 1, from the word vectors of the attributes' names and a learned offset."""
        return F.normalize(self.queries(self.names) + self.offsets, dim=-1)

    def attend(self, queries: Tensor, regions: Tensor, log_scores: Tensor, valid: Tensor) -> Tensor:
        """Attention [..., Q, R] of queries [..., Q, D] over regions [..., R, D]; sums to 1 over valid regions.

        log_scores, valid [..., R]. Where an image has no valid region, all weights are 0.
        """
        logits = queries @ regions.transpose(-1, -2) / self.tau
        logits = logits + (self.prior.clamp_min(0) * log_scores).unsqueeze(-2)
        allowed = valid.unsqueeze(-2)
        logits = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)
        return torch.softmax(logits, dim=-1) * allowed

    def text_attention(self, batch: Batch, regions: Tensor | None = None) -> Tensor:
        """alpha [B, W, R] of each report's words over its own image's regions; 0 for padding words.

        Here and below, `regions` is v [B, R, D] where it has been encoded already.
        """
        regions = self.encode_regions(batch.features) if regions is None else regions
        alpha = self.attend(self.encode_words(batch.words), regions, batch.log_scores, batch.valid)
        return alpha * (batch.words >= 0).unsqueeze(-1)

    def place_probabilities(self, regions: Tensor, centres: Tensor) -> Tensor:
        """pi [B, R, K] of regions v [B, R, D] with centres [B, R, 2]; sums to 1 over the places."""
        away = (centres.unsqueeze(-2) - self.middles) / self.spreads.exp()
        density = -away.square().sum(-1) / 2 - self.spreads.sum(-1)
        return torch.softmax(density + regions @ self.places.T, dim=-1)

    def phrase_attention(self, batch: Batch, regions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """gamma [B, P, R] of each phrase over its own image's regions, 0 for padding, and each phrase's likelihood [B, P].

        The likelihood is sum_r beta_0r sum_{k in p} pi_rk, the probability that the image gives to the phrase's place; 1 for padding.
        """
        regions = self.encode_regions(batch.features) if regions is None else regions
        beta = self.attend(self.attribute_queries()[:1], regions, batch.log_scores, batch.valid)  # [B, 1, R]
        allowed = batch.phrases @ self.place_probabilities(regions, batch.centres).transpose(1, 2)  # [B, P, R]
        joint = beta * allowed.clamp_min(1e-6)
        said = batch.phrases.any(-1) & batch.valid.any(-1, keepdim=True)
        likelihood = torch.where(said, joint.sum(-1), 1.0)
        return joint / likelihood.unsqueeze(-1) * said.unsqueeze(-1), likelihood

    def match(self, batch: Batch, regions: Tensor | None = None) -> Tensor:
        """score [B reports, B images]: how well each report fits each image; 0 for reports without words."""
        known = batch.words >= 0
        regions = self.encode_regions(batch.features) if regions is None else regions
        words, which = self._distinct(batch.words, known)  # [U, D]; [T], the T words of all reports, without padding
        likeness = (regions.flatten(0, 1) @ words.T).unflatten(0, regions.shape[:2])  # [B images, R, U]
        bias = self.prior.clamp_min(0) * batch.log_scores
        bias = bias.masked_fill(~batch.valid, torch.finfo(bias.dtype).min)
        alpha = torch.softmax(torch.add(bias.unsqueeze(-1), likeness, alpha=1 / self.tau), dim=1)
        # cos(t_w, sum_r alpha_wr v_r) from inner products alone, so that no [B, U, D] is ever formed.
        along = (alpha * likeness).sum(1)
        length = (alpha * (regions @ regions.transpose(1, 2) @ alpha)).sum(1).clamp_min(1e-12).sqrt()
        fits = (along / length * batch.valid.any(1, keepdim=True)).T[which]  # [T, B images]
        report = torch.nonzero(known)[:, 0]
        sums = torch.zeros(len(known), len(regions), device=regions.device).index_add(0, report, fits)
        return sums / known.sum(1, keepdim=True).clamp_min(1)

    def _distinct(self, words: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [U, D] of the distinct words among words [B, W], and for each word that is no padding its number among them [T].

        Words are distinct if they or their neighbours are: reports say the same in the same words, and need not be compared twice.
        """
        padded = F.pad(words, (1, 1), value=-1)
        windows = torch.stack([padded[:, :-2], words, padded[:, 2:]], dim=-1)[known]  # [T, 3]: each word between its neighbours
        most = len(self.vectors) + 1
        code = (windows + 1) @ torch.tensor([most * most, most, 1], device=words.device)
        distinct, which = torch.unique(code, return_inverse=True)
        first = torch.full((len(distinct),), len(code), device=words.device)
        first.scatter_reduce_(0, which, torch.arange(len(code), device=words.device), "amin")
        return self._encode_windows(windows[first]), which

    def _encode_windows(self, windows: Tensor) -> Tensor:
        """What `encode_words` gives for the middle ones of three words each: [U, 3] -> [U, D]."""
        vectors = self.vectors[windows.clamp_min(0)] * (windows >= 0).unsqueeze(-1)
        context = F.linear(vectors.flatten(1), self.context.weight.transpose(1, 2).flatten(1), self.context.bias)
        return F.normalize(self.words(vectors[:, 1] + torch.relu(context)), dim=-1)

    def image_only(self, batch: Batch, regions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """beta [B, A, R] and attribute logits [B, A]; reads no word."""
        regions = self.encode_regions(batch.features) if regions is None else regions
        queries = self.attribute_queries().expand(len(regions), -1, -1)
        beta = self.attend(queries, regions, batch.log_scores, batch.valid)
        attended = beta @ regions
        return beta, (attended * self.classifier).sum(-1) / self.tau + self.bias
