"""The cross-attention and its losses: the equations by slow loops, values by hand, overfitting."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from pnloc import losses
from pnloc.config import ModelConfig
from pnloc.model import APPENDED, PLACES, Batch, CrossAttention, ImageDropout
from pnloc.regions import feature_size
from pnloc.training import asserted, stretches, supervision

STUDIES, REGIONS, WORDS, PHRASES, ATTRIBUTES, FEATURES = 4, 5, 3, 2, 2, 6


@pytest.fixture
def model() -> CrossAttention:
    torch.manual_seed(0)
    config = ModelConfig(width=8)
    model = CrossAttention(FEATURES, torch.randn(9, 7), torch.randn(ATTRIBUTES, 7), config)
    for parameter in (model.classifier, model.bias, model.places):
        torch.nn.init.normal_(parameter)
    return model.eval().requires_grad_(False)


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(1)
    valid = torch.ones(STUDIES, REGIONS, dtype=torch.bool)
    valid[1, 3:] = False
    words = torch.randint(0, 9, (STUDIES, WORDS))
    words[2, 1:] = -1
    labels = (torch.rand(STUDIES, ATTRIBUTES) > 0.5).float()
    phrases = (torch.rand(STUDIES, PHRASES, len(PLACES)) > 0.5).float()
    phrases[:, 0, 0] = 1
    phrases[0, 1] = 0  # the first report has one phrase
    features, centres = torch.randn(STUDIES, REGIONS, FEATURES), torch.rand(STUDIES, REGIONS, 2)
    log_scores, weights = torch.rand(STUDIES, REGIONS).log(), torch.ones_like(labels)
    return Batch(features, log_scores, valid, centres, words, phrases, labels, weights)


def rows(batch: Batch, index: slice) -> Batch:
    return Batch(*(getattr(batch, f.name)[index] for f in fields(Batch)))


def attention(model, batch, image: int, query: np.ndarray, v: np.ndarray) -> np.ndarray:
    """softmax_r(query . v_r / tau + lambda log s_r) over the valid regions of one image."""
    logits = v[image] @ query / model.tau + float(model.prior) * batch.log_scores[image].numpy()
    weights = np.exp(logits - logits.max()) * batch.valid[image].numpy()
    return weights / weights.sum()


def test_the_attention_of_words_and_the_matching_score_follow_their_equations(model, batch):
    alpha, scores = model.text_attention(batch), model.match(batch)
    v, t = model.encode_regions(batch.features).numpy(), model.encode_words(batch.words).numpy()
    for report in range(STUDIES):
        real = [w for w in range(WORDS) if batch.words[report, w] >= 0]
        for image in range(STUDIES):
            cosines = []
            for word in real:
                weights = attention(model, batch, image, t[report, word], v)
                c = weights @ v[image]
                cosines.append(t[report, word] @ c / np.linalg.norm(c))
                if report == image:
                    assert alpha[report, word].numpy() == pytest.approx(weights, abs=1e-5)
            assert float(scores[report, image]) == pytest.approx(np.mean(cosines), abs=1e-5)
    assert alpha[2, 1:].abs().max() == 0, "padding words"


def test_the_logit_of_an_attribute_follows_its_equation(model, batch):
    beta, logits = model.image_only(batch)
    v, q = model.encode_regions(batch.features).numpy(), model.attribute_queries().numpy()
    u, b = model.classifier.numpy(), model.bias.numpy()
    for image in range(STUDIES):
        for a in range(ATTRIBUTES):
            weights = attention(model, batch, image, q[a], v)
            logit = u[a] @ (weights @ v[image]) / model.tau + b[a]
            assert beta[image, a].numpy() == pytest.approx(weights, abs=1e-5)
            assert float(logits[image, a]) == pytest.approx(logit, abs=1e-4)


def test_in_the_form_of_the_reviews_predicted_attributes_weigh_regions_without_geometry(batch):
    torch.manual_seed(0)
    assert feature_size(0) == APPENDED, "what stands beside the pooled pyramid"
    sizes = (FEATURES + APPENDED, torch.randn(9, 7), torch.randn(3, 7))
    model = CrossAttention(*sizes, ModelConfig(width=8).reviewed()).eval().requires_grad_(False)
    torch.nn.init.normal_(model.classifier)
    features = torch.cat([batch.features, torch.randn(STUDIES, REGIONS, APPENDED)], dim=2)
    beta, logits = model.image_only(replace(batch, features=features))
    v, q = model.encode_regions(features).numpy(), model.attribute_queries()[0].numpy()
    words = model.encode_words(torch.tensor([[1, 2]]))[0].numpy()
    for image, chances in enumerate(torch.sigmoid(logits[:, 1:]).tolist()):
        pairs = zip(chances, words, strict=True)
        told = sum(p * attention(model, batch, image, word, v) for p, word in pairs)
        joint = attention(model, batch, image, q, v) * told
        assert beta[image, 0].numpy() == pytest.approx(joint / joint.sum(), abs=1e-5)
    moved = replace(batch, features=features + torch.tensor([0.0] * FEATURES + [1.0] * APPENDED))
    assert torch.equal(model.image_only(moved)[0], beta)
    labels = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]])
    assert asserted(labels).tolist() == [[2, -1, -1], [-1, -1, -1], [2, 1, -1]]


def test_the_attention_of_phrases_follows_bayes_rule(model, batch):
    gamma, likelihood = model.phrase_attention(batch)
    beta = model.image_only(batch)[0][:, 0].numpy()
    v, spreads = model.encode_regions(batch.features).numpy(), model.spreads.exp().numpy()
    for study in range(STUDIES):
        joint = np.zeros((REGIONS, PHRASES))
        for r in range(REGIONS):
            away = (batch.centres[study, r].numpy() - model.middles.numpy()) / spreads
            density = np.exp(-(away**2).sum(1) / 2) / spreads.prod(1)
            pi = density * np.exp(model.places.numpy() @ v[study, r])
            joint[r] = beta[study, r] * (batch.phrases[study].numpy() @ pi) / pi.sum()
        for phrase in range(PHRASES):
            if not batch.phrases[study, phrase].any():
                assert gamma[study, phrase].abs().max() == 0 and likelihood[study, phrase] == 1
                continue
            total = joint[:, phrase].sum()
            assert float(likelihood[study, phrase]) == pytest.approx(total, abs=1e-5)
            assert gamma[study, phrase].numpy() == pytest.approx(joint[:, phrase] / total, abs=1e-5)


def test_matching_in_groups_is_the_equation_within_each_group(model, batch):
    for group, scores in enumerate(model.match_groups(batch, None, 2)):
        part = rows(batch, slice(2 * group, 2 * group + 2))
        assert torch.allclose(scores, model.match(part), atol=1e-6)
    wider = torch.cat([batch.words, -torch.ones(STUDIES, 4, dtype=torch.int64)], 1)
    padded = model.match(replace(batch, words=wider))
    assert torch.allclose(padded, model.match(batch), atol=1e-6), "padding words change nothing"


def test_a_phrase_of_every_place_changes_nothing_and_one_of_a_place_moves_attention_there(
    model, batch
):
    centres = torch.tensor([[0.3, 0.7], [0.7, 0.7], [0.3, 0.3], [0.7, 0.3], [0.5, 0.5]])
    phrases = torch.zeros(STUDIES, 2, len(PLACES))
    phrases[:, 0] = 1
    phrases[:, 1, list(PLACES).index(("left", "lower"))] = 1
    batch = replace(batch, centres=centres.repeat(STUDIES, 1, 1), phrases=phrases)
    model.places.zero_()
    gamma, beta = model.phrase_attention(batch)[0], model.image_only(batch)[0][:, 0]
    assert torch.allclose(gamma[:, 0], beta, atol=1e-6)
    assert (gamma[:, 1, 1] > beta[:, 1]).all() and (gamma[:, 1, 2] < beta[:, 2]).all()


def test_dropout_leaves_out_the_same_features_in_all_regions_of_an_image():
    torch.manual_seed(0)
    dropout = ImageDropout(0.5)
    output = dropout(torch.ones(4, 5, 32))
    assert set(output.unique().tolist()) == {0.0, 2.0}
    assert (output == output[:, :1]).all() and (output[0] != output[1]).any()
    assert (dropout.eval()(torch.ones(4, 5, 32)) == 1).all()


# Losses


def test_contrastive_by_hand():
    # Scores of 1 on the diagonal and 0 beside it, tau 1: each term is -log(e / (e + 1)).
    both, one = torch.tensor([True, True]), torch.tensor([True, False])
    loss = losses.contrastive(torch.eye(2), both, 1.0)
    assert float(loss) == pytest.approx(np.log(1 + np.exp(-1)))
    assert float(losses.contrastive(torch.eye(2), one, 1.0)) == 0


def test_attributes_by_hand():
    logits, labels = torch.tensor([[0.0, 5.0]]), torch.tensor([[1.0, 0.0]])
    loss = losses.attributes(logits, labels, torch.tensor([[1.0, 0.0]]))
    assert float(loss) == pytest.approx(np.log(2)), "an unknown attribute does not count"
    assert float(losses.attributes(logits, labels, torch.zeros(1, 2))) == 0


def test_grounding_by_hand():
    # Two phrases with likelihoods 1/2 and 1/8, and padding: the mean of log 2 and log 8.
    phrases = torch.tensor([[[1.0, 0], [1, 1], [0, 0]]])
    loss = losses.grounding(torch.tensor([[0.5, 0.125, 1.0]]), phrases)
    assert float(loss) == pytest.approx(np.log(16) / 2)
    assert float(losses.grounding(torch.ones(1, 0), torch.zeros(1, 0, 2))) == 0


def test_distillation_is_a_divergence_that_teaches_only_the_image():
    gamma = torch.tensor([[[0.7, 0.3]]], requires_grad=True)
    phrases, labels = torch.ones(1, 1, 6), torch.ones(1, 1)
    same = losses.distillation(gamma, gamma.detach(), phrases, labels)
    assert same.item() == pytest.approx(0, abs=1e-6)
    beta = torch.tensor([[[0.2, 0.8]]], requires_grad=True)
    loss = losses.distillation(gamma, beta, phrases, labels)
    assert loss.item() == pytest.approx(0.7 * np.log(3.5) + 0.3 * np.log(3 / 8), abs=1e-6)
    loss.backward()
    assert gamma.grad is None and beta.grad is not None


def test_no_words_no_regions_and_one_study_are_defined(model, batch):
    none = torch.zeros_like(batch.valid)
    words, phrases = -torch.ones(STUDIES, 0, dtype=torch.int64), torch.zeros(STUDIES, 0, 6)
    empty = replace(batch, valid=none, words=words, phrases=phrases)
    terms = losses.total(model, empty, ModelConfig(width=8), text=True)
    assert [float(terms[n]) for n in ("contrastive", "grounding", "distillation")] == [0, 0, 0]
    beta, logits = model.image_only(empty)
    assert float(beta.abs().max()) == 0 and torch.isfinite(logits).all()
    assert float(model.match(replace(batch, valid=none)).abs().max()) == 0
    one = losses.total(model, rows(batch, slice(0, 1)), ModelConfig(width=8), text=True)
    assert torch.isfinite(torch.stack([*terms.values(), *one.values()])).all()


def test_the_model_overfits_four_pairs(model, batch):
    model.train().requires_grad_(True)
    model.regions[3].p, values = 0.0, []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(400):
        terms = losses.total(model, batch, ModelConfig(width=8), text=True)
        values.append(torch.stack(list(terms.values())).sum())
        optimizer.zero_grad()
        values[-1].backward()
        optimizer.step()
    assert terms["attributes"].item() < 0.02 and values[-1].item() < 0.5 * values[0].item()
    assert (model.match(batch).argmax(1) == torch.arange(STUDIES)).all()


# Training data


def test_a_stretch_keeps_words_together_and_a_short_report_whole():
    words = np.full((200, 12), -1)
    words[:100, :9] = np.arange(9)
    words[100:150, :2] = (7, 8)
    drawn = stretches(words, 4, np.random.default_rng(0))
    assert drawn.shape == (200, 4)
    assert (np.diff(drawn[:100], axis=1) == 1).all() and (drawn[:100] >= 0).all()
    assert set(drawn[:100, 0]) == set(range(6)), "from anywhere"
    assert (drawn[100:150] == [7, 8, -1, -1]).all() and (drawn[150:] == -1).all()
    for part, shape in ((words[100:150], (50, 2)), (words[150:], (50, 0)), (words[:0], (0, 0))):
        assert stretches(part, 4, np.random.default_rng(0)).shape == shape


def test_supervision_has_three_values():
    names, own = ("pneumonia", "side:left", "side:right"), [{"side:left"}, {"side:left"}, set()]
    labels, weights = supervision(own, np.array([1.0, 0.0, np.nan]), names)
    assert labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    # An attribute that the report does not mention beside an opacity weighs little.
    assert weights.ravel().tolist() == pytest.approx([1, 1, 0.2, 1, 1, 1, 0, 0, 0])
