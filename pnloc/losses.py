"""The terms of the localizer's loss, a function each, and their weighted sum.

Letters as in pnloc.model: B studies, R regions, W words, P phrases, K places, A attributes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pnloc.config import ModelConfig
from pnloc.model import Batch, CrossAttention


def contrastive(scores: Tensor, paired: Tensor, tau: float) -> Tensor:
    """In-batch contrastive loss, both ways (Gupta et al. 2020), over the reports that have words.

    scores [G groups, b reports, b images] (or [b, b]), cosines; paired [G, b] (or [b]) bool,
    studies whose report has words. A report is to pick its image among all images of its group, an
    image its report among those with words. A group with fewer than two such studies does not
    count; 0 where no group does.
    """
    logits = scores.reshape(-1, *scores.shape[-2:]) / tau
    paired = paired.reshape(-1, paired.shape[-1])
    paired = paired & (paired.sum(1, keepdim=True) > 1)
    to_image = torch.log_softmax(logits, dim=2).diagonal(dim1=1, dim2=2)
    others = logits.masked_fill(~paired.unsqueeze(2), torch.finfo(logits.dtype).min)
    to_text = torch.log_softmax(others, dim=1).diagonal(dim1=1, dim2=2)
    return -((to_image + to_text) * paired).sum() / (2 * paired.sum().clamp_min(1))


def matching(
    model: CrossAttention, batch: Batch, regions: Tensor | None, size: int, tau: float
) -> Tensor:
    """`contrastive` within groups of `size` studies; one group where B is no multiple of `size`."""
    count = len(batch.words)
    groups = count // size if count and count % size == 0 else 1
    paired = (batch.words >= 0).any(1).view(groups, -1)
    return contrastive(model.match_groups(batch, regions, groups), paired, tau)


def attributes(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy of attribute logits [B, A], averaged by weight; 0 where all weigh 0.

    A weight of 0 means unknown: an attribute that a report does not mention need not be absent.
    """
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp_min(1e-6)


def grounding(likelihood: Tensor, phrases: Tensor) -> Tensor:
    """Mean negative log of the likelihoods [B, P] of the phrases [B, P, K]; 0 without a phrase.

    Its gradient is that of expectation maximization: it draws the pneumonia's attention towards its
    posterior gamma, and the places towards the regions that gamma points at.
    """
    real = phrases.any(-1)
    return -(likelihood.log() * real).sum() / real.sum().clamp_min(1)


def distillation(gamma: Tensor, beta: Tensor, phrases: Tensor, labels: Tensor) -> Tensor:
    """KL(teacher || beta), averaged over the attributes that a report with phrases asserts.

    The teacher is the mean of gamma [B, P, R] over the report's phrases [B, P, K] and is detached;
    beta [B, A, R]; labels [B, A]. 0 where no report has a phrase.
    """
    count = phrases.any(-1).sum(1)
    teacher = (gamma.sum(1) / count.clamp_min(1).unsqueeze(-1)).detach().unsqueeze(1)  # [B, 1, R]
    divergence = (teacher * (teacher.clamp_min(1e-8).log() - beta.clamp_min(1e-8).log())).sum(-1)
    asserted = labels * (count > 0).unsqueeze(-1)
    return (divergence * asserted).sum() / asserted.sum().clamp_min(1e-6)


def total(
    model: CrossAttention, batch: Batch, config: ModelConfig, text: bool
) -> dict[str, Tensor]:
    """The weighted terms of one batch; without `text` the attribute term alone."""
    regions = model.encode_regions(batch.features)  # once: they take most of a step's time
    beta, logits = model.image_only(batch, regions)
    attribute = attributes(logits, batch.labels, batch.weights)
    terms = {"attributes": config.attribute_weight * attribute}
    if text:
        match = matching(model, batch, regions, config.contrast_group, config.contrast_tau)
        terms["contrastive"] = config.contrast_weight * match
        gamma, likelihood = model.phrase_attention(batch, regions, beta[:, :1])
        terms["grounding"] = config.grounding_weight * grounding(likelihood, batch.phrases)
        distilled = distillation(gamma, beta, batch.phrases, batch.labels)
        terms["distillation"] = config.distill_weight * distilled
    return terms
