"""The cross-attention and its losses: properties that one can say aloud, an independent slow loop, overfitting."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pnloc import losses
from pnloc.config import ModelConfig
from pnloc.model import Batch, CrossAttention, ImageDropout
from pnloc.training import stretches, supervision

STUDIES, REGIONS, WORDS, PHRASES, ATTRIBUTES, FEATURES = 4, 5, 3, 2, 2, 6


def make_model(**options) -> CrossAttention:
    torch.manual_seed(0)
    model = CrossAttention(
        FEATURES, torch.randn(9, 7), torch.randn(ATTRIBUTES, 7), ModelConfig(width=8, **options)
    )
    torch.nn.init.normal_(model.classifier)
    return model.eval()


def make_batch(seed: int = 1) -> Batch:
    torch.manual_seed(seed)
    valid = torch.ones(STUDIES, REGIONS, dtype=torch.bool)
    valid[1, 3:] = False
    words = torch.randint(0, 9, (STUDIES, WORDS))
    words[2, 1:] = -1
    labels = (torch.rand(STUDIES, ATTRIBUTES) > 0.5).float()
    phrases = (torch.rand(STUDIES, PHRASES, 6) > 0.5).float()
    phrases[:, 0, 0] = 1
    phrases[0, 1] = 0  # the first report has one phrase
    return Batch(
        torch.randn(STUDIES, REGIONS, FEATURES),
        torch.rand(STUDIES, REGIONS).log(),
        valid,
        torch.rand(STUDIES, REGIONS, 2),
        words,
        phrases,
        labels,
        torch.ones_like(labels),
    )


def rows(batch: Batch, index: slice) -> Batch:
    return Batch(*(getattr(batch, name)[index] for name in Batch.__dataclass_fields__))


def test_attention_sums_to_one_over_valid_regions_and_is_zero_on_padding():
    model, batch = make_model(), make_batch()
    beta, _ = model.image_only(batch)
    alpha = model.text_attention(batch)
    assert torch.allclose(beta.sum(-1), torch.ones(STUDIES, ATTRIBUTES))
    assert beta[1, :, 3:].abs().max() == 0
    assert torch.allclose(alpha.sum(-1), (batch.words >= 0).float())
    assert alpha[1, :, 3:].abs().max() == 0


def test_a_slow_loop_written_from_the_equations_agrees():
    model, batch = make_model(), make_batch()
    with torch.no_grad():
        alpha, scores = model.text_attention(batch), model.match(batch)
        v, t = model.encode_regions(batch.features).numpy(), model.encode_words(batch.words).numpy()
        prior = float(model.prior.clamp_min(0))
    for report in range(STUDIES):
        for image in range(STUDIES):
            fits = []
            for word in range(WORDS):
                if batch.words[report, word] < 0:
                    continue
                logits = [
                    float(t[report, word] @ v[image, r]) / model.tau
                    + prior * float(batch.log_scores[image, r])
                    for r in range(REGIONS)
                ]
                weights = np.array(
                    [
                        np.exp(z - max(logits)) if batch.valid[image, r] else 0.0
                        for r, z in enumerate(logits)
                    ]
                )
                weights /= weights.sum()
                attended = sum(w * v[image, r] for r, w in enumerate(weights))
                fits.append(t[report, word] @ attended / np.linalg.norm(attended))
                if report == image:
                    assert alpha[report, word].numpy() == pytest.approx(weights, abs=1e-5)
            assert float(scores[report, image]) == pytest.approx(np.mean(fits), abs=1e-5)


def test_a_batch_equals_its_members_one_by_one():
    model, batch = make_model(), make_batch()
    with torch.no_grad():
        beta, logits = model.image_only(batch)
        for i in range(STUDIES):
            one_beta, one_logits = model.image_only(rows(batch, slice(i, i + 1)))
            assert torch.allclose(one_beta[0], beta[i], atol=1e-6)
            assert torch.allclose(one_logits[0], logits[i], atol=1e-5)


def test_padding_words_change_nothing():
    model, batch = make_model(), make_batch()
    wider = replace(
        batch, words=torch.cat([batch.words, -torch.ones(STUDIES, 4, dtype=torch.int64)], 1)
    )
    with torch.no_grad():
        assert torch.allclose(model.match(batch), model.match(wider), atol=1e-6)


def test_matching_within_groups_is_matching_of_each_group_alone():
    model, batch = make_model(), make_batch()
    with torch.no_grad():
        scores = model.match_groups(batch, None, 2)
        for group in range(2):
            alone = model.match(rows(batch, slice(2 * group, 2 * group + 2)))
            assert torch.allclose(scores[group], alone, atol=1e-6)
    assert scores[0].diagonal().abs().min() > 0


def test_the_contrastive_term_compares_within_groups_and_takes_a_batch_that_makes_up_no_whole_ones_as_one():
    model, batch = make_model(), make_batch()
    with torch.no_grad():
        halves = [
            losses.matching(model, rows(batch, slice(k, k + 2)), None, 16, 0.1) for k in (0, 2)
        ]
        assert float(losses.matching(model, batch, None, 2, 0.1)) == pytest.approx(
            float(sum(halves)) / 2, rel=1e-5
        )
        whole = float(losses.matching(model, batch, None, 4, 0.1))
        assert float(losses.matching(model, batch, None, 3, 0.1)) == pytest.approx(whole)
    assert abs(whole - float(sum(halves)) / 2) > 0.01, "more to compare with is harder"


def test_dropout_leaves_out_the_same_features_in_all_regions_of_an_image():
    torch.manual_seed(0)
    dropout = ImageDropout(0.5)
    kept = dropout(torch.ones(4, 5, 32))
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert (kept == kept[:, :1]).all() and (kept[0] != kept[1]).any()
    assert (dropout.eval()(torch.ones(4, 5, 32)) == 1).all()


def test_a_stretch_keeps_words_together_and_a_short_report_whole():
    words = np.full((200, 12), -1)
    words[:100, :9] = np.arange(9)
    words[100:150, :2] = (7, 8)
    found = stretches(words, 4, np.random.default_rng(0))
    assert found.shape == (200, 4)
    assert (np.diff(found[:100], axis=1) == 1).all() and (found[:100] >= 0).all()
    assert set(found[:100, 0]) == set(range(6)), "from anywhere"
    assert (found[100:150] == [7, 8, -1, -1]).all() and (found[150:] == -1).all()
    assert stretches(words[100:150], 4, np.random.default_rng(0)).shape == (50, 2)
    assert stretches(words[150:], 4, np.random.default_rng(0)).shape == (50, 0)
    assert stretches(words[:0], 4, np.random.default_rng(0)).shape == (0, 0)


def test_phrase_attention_by_a_slow_loop():
    """Bayes' rule, region by region: what the image says of a region times what its place says of the phrase."""
    model, batch = make_model(), make_batch()
    torch.nn.init.normal_(model.places)
    with torch.no_grad():
        gamma, likelihood = model.phrase_attention(batch)
        beta = model.image_only(batch)[0][:, 0].double().numpy()
        v = model.encode_regions(batch.features).double().numpy()
    middles, places = (
        model.middles.detach().double().numpy(),
        model.places.detach().double().numpy(),
    )
    spreads = model.spreads.detach().exp().double().numpy()
    for study in range(STUDIES):
        for phrase in range(PHRASES):
            allowed = batch.phrases[study, phrase].numpy()
            joint = []
            for r in range(REGIONS):
                logits = []
                for k in range(6):
                    x, y = batch.centres[study, r].numpy()
                    far = ((x - middles[k, 0]) / spreads[k, 0]) ** 2 + (
                        (y - middles[k, 1]) / spreads[k, 1]
                    ) ** 2
                    logits.append(
                        places[k] @ v[study, r]
                        - far / 2
                        - np.log(spreads[k, 0])
                        - np.log(spreads[k, 1])
                    )
                pi = np.exp(logits) / np.exp(logits).sum()
                joint.append(beta[study, r] * sum(p for p, a in zip(pi, allowed, strict=True) if a))
            if not allowed.any():
                assert gamma[study, phrase].abs().max() == 0 and likelihood[study, phrase] == 1
                continue
            assert float(likelihood[study, phrase]) == pytest.approx(sum(joint), abs=1e-5)
            assert gamma[study, phrase].numpy() == pytest.approx(
                np.array(joint) / sum(joint), abs=1e-5
            )


def test_a_phrase_without_a_place_changes_nothing_and_one_with_a_place_moves_attention_there():
    model, batch = make_model(), make_batch()
    centres = torch.tensor([[0.3, 0.7], [0.7, 0.7], [0.3, 0.3], [0.7, 0.3], [0.5, 0.5]]).repeat(
        STUDIES, 1, 1
    )
    phrases = torch.zeros(STUDIES, 2, 6)
    phrases[:, 0] = 1  # everywhere
    phrases[:, 1, 5] = 1  # left lower
    batch = replace(batch, centres=centres, phrases=phrases)
    with torch.no_grad():
        gamma, _ = model.phrase_attention(batch)
        beta = model.image_only(batch)[0][:, 0]
    assert torch.allclose(gamma[:, 0], beta, atol=1e-6)
    assert (gamma[:, 1, 1] > beta[:, 1]).all() and (gamma[:, 1, 2] < beta[:, 2]).all()


def test_grounding_by_hand():
    # Two phrases with likelihoods 1/2 and 1/8, a third that is padding: the mean of log 2 and log 8.
    phrases = torch.tensor([[[1.0, 0], [1, 1], [0, 0]]])
    assert float(losses.grounding(torch.tensor([[0.5, 0.125, 1.0]]), phrases)) == pytest.approx(
        np.log(16) / 2
    )
    assert float(losses.grounding(torch.ones(1, 0), torch.zeros(1, 0, 2))) == 0


def test_no_words_no_regions_and_one_study_are_defined():
    model, batch = make_model(), make_batch()
    silent = replace(
        batch,
        valid=torch.zeros_like(batch.valid),
        words=-torch.ones(STUDIES, 0, dtype=torch.int64),
        phrases=torch.zeros(STUDIES, 0, 6),
    )
    terms = losses.total(model, silent, ModelConfig(width=8), text=True)
    assert all(torch.isfinite(value) for value in terms.values())
    assert [
        float(terms[name].detach()) for name in ("contrastive", "grounding", "distillation")
    ] == [0, 0, 0]
    beta, logits = model.image_only(silent)
    assert float(beta.detach().abs().max()) == 0 and torch.isfinite(logits).all()
    assert torch.isfinite(
        torch.stack(
            list(
                losses.total(
                    model, rows(batch, slice(0, 1)), ModelConfig(width=8), text=True
                ).values()
            )
        )
    ).all()


def test_contrastive_by_hand():
    # Two studies, scores of 1 on the diagonal and 0 beside it, tau 1: each term is -log(e / (e + 1)).
    expected = np.log(1 + np.exp(-1))
    assert float(
        losses.contrastive(torch.eye(2), torch.tensor([True, True]), 1.0)
    ) == pytest.approx(expected)
    assert float(losses.contrastive(torch.eye(2), torch.tensor([True, False]), 1.0)) == 0


def test_unknown_attributes_do_not_count():
    logits, labels = torch.tensor([[0.0, 5.0]]), torch.tensor([[1.0, 0.0]])
    assert float(losses.attributes(logits, labels, torch.tensor([[1.0, 0.0]]))) == pytest.approx(
        np.log(2)
    )
    assert float(losses.attributes(logits, labels, torch.zeros(1, 2))) == 0


def test_distillation_is_zero_where_the_image_agrees_with_the_report_and_teaches_only_the_image():
    gamma = torch.tensor([[[0.7, 0.3]]], requires_grad=True)
    beta = torch.tensor([[[0.7, 0.3]]], requires_grad=True)
    phrases, labels = torch.ones(1, 1, 6), torch.ones(1, 1)
    assert float(losses.distillation(gamma, beta, phrases, labels)) == pytest.approx(0, abs=1e-6)
    other = torch.tensor([[[0.2, 0.8]]], requires_grad=True)
    losses.distillation(gamma, other, phrases, labels).backward()
    assert gamma.grad is None and other.grad is not None


def test_the_model_overfits_four_pairs():
    model, batch = make_model(dropout=0.0).train(), make_batch()
    config = ModelConfig(width=8, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    first = None
    for _ in range(400):
        terms = losses.total(model, batch, config, text=True)
        loss = torch.stack(list(terms.values())).sum()
        first = first or float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(terms["attributes"]) < 0.02
    assert float(loss) < 0.5 * first
    with torch.no_grad():
        assert (model.match(batch).argmax(1) == torch.arange(STUDIES)).all()


def test_supervision_has_three_values():
    names = ("pneumonia", "side:left", "side:right")
    labels, weights = supervision(
        [{"side:left"}, {"side:left"}, set()], np.array([1.0, 0.0, np.nan]), names
    )
    assert labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    # Said counts fully; unsaid beside an opacity counts little; without an opacity all is absent; unknown counts nothing.
    assert weights[0].tolist() == pytest.approx([1, 1, 0.2])
    assert weights[1].tolist() == [1, 1, 1]
    assert weights[2].tolist() == [0, 0, 0]
