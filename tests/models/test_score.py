"""Losses of continuations, choices and long texts, against the network that reads each alone and whole."""

import random
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

from stepladder.errors import DataError, ExportError  # noqa: E402
from stepladder.models import score  # noqa: E402
from stepladder.models.generate import generate_many  # noqa: E402
from stepladder.models.hf import random_network  # noqa: E402
from stepladder.models.score import (  # noqa: E402
    continuation_losses,
    rolling_losses,
    rolling_pairs,
    score_choices,
    score_continuations,
)


@torch.no_grad()
def alone(network, prompt, said):
    """(loss of each id, greedy) of one pair, read from its beginning."""
    context = network.shape.context_tokens
    whole = torch.tensor([*prompt, *said][-(context + 1) :])
    chances = network(whole[None, :-1])[0].log_softmax(-1)[-len(said) :]
    targets = whole[-len(said) :] if len(said) <= context else whole[1:]
    losses = -chances.gather(1, targets[:, None])[:, 0]
    return losses.numpy(), bool((chances.argmax(-1) == targets).all())


def asked(seed):
    """Questions with choices of several lengths, with prompts that are shared and not."""
    draw = random.Random(seed)

    def ids(count):
        return [draw.randrange(1, 96) for _ in range(count)]

    pairs = []
    for length in (1, 5, 16, 20, 20, 27, 40):
        prompt = ids(length)
        pairs += [(prompt, ids(draw.randint(1, 7))) for _ in range(draw.choice((1, 3, 4)))]
    pairs += [(ids(9), ids(3)), ([7] * 18, [3]), ([7] * 18, [4]), (ids(3), ids(32)), (ids(3), ids(40))]
    draw.shuffle(pairs)
    return pairs


@pytest.mark.parametrize("positions", [40, 2_048])
def test_every_pair_scores_as_it_does_alone(network, monkeypatch, positions):
    monkeypatch.setattr(score, "_BATCH_POSITIONS", positions)
    monkeypatch.setattr(score, "_BATCH_LOGITS", 96 * 5)
    for seed in range(2):
        pairs = asked(seed)
        for pair, (losses, is_greedy) in zip(pairs, continuation_losses(network, pairs), strict=True):
            expected, greedy = alone(network, *pair)
            np.testing.assert_allclose(losses, expected, atol=2e-5)
            assert greedy == is_greedy
        sums = [-losses.sum() for losses, _ in continuation_losses(network, pairs)]
        assert sums == [nats for nats, _ in score_continuations(network, pairs)]


def test_a_shared_prompt_is_read_once(network, monkeypatch):
    read = []
    whole = type(network).hidden
    monkeypatch.setattr(
        type(network), "hidden", lambda self, ids: read.append(ids.numel()) or whole(self, ids)
    )
    prompt = list(range(1, 21))
    score_continuations(network, [(prompt, [3, 4]), (prompt, [5]), (prompt[1:], [6])])
    assert read == [19]


def test_what_greedy_decoding_says_is_greedy(network):
    prompt = list(range(20, 40))
    best = generate_many(network, [prompt], 3, end=-1)[0]
    found = score_continuations(network, [(prompt, best), (prompt, best[:1]), (prompt, [best[0], 0, 0])])
    assert [True, True] == [is_greedy for _, is_greedy in found[:2]]
    assert bool(best[1:] == [0, 0]) == found[2][1]


def test_prior_correction_takes_off_what_the_neutral_prompt_says(network, plain):
    prompts, choices, neutral = [[1, 2, 3], list(range(17, 40))], [[5], [6, 7], [8, 9, 10]], [1, 3]
    plain = score_choices(network, prompts, choices)
    gain = score_choices(network, prompts, choices, neutral=neutral)
    for row, prompt in enumerate([*prompts, neutral]):
        for column, choice in enumerate(choices):
            expected = -alone(network, prompt, choice)[0].sum()
            if row < len(prompts):
                assert expected == pytest.approx(plain[row, column].item(), abs=1e-4)
            else:
                np.testing.assert_allclose(gain[:, column], plain[:, column] - expected, atol=1e-4)


@pytest.mark.parametrize("count", [2, 10, 33, 34, 65, 100])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
def test_windows_predict_every_id_once_and_end_with_the_text(network, count, overlap):
    ids = [int(one) for one in np.random.default_rng(count).integers(1, 96, size=count)]
    pairs = rolling_pairs(ids, 32, overlap)
    assert ids[1:] == [one for _, said in pairs for one in said]
    assert all(len(prompt) + len(said) == min(33, count) for prompt, said in pairs)
    losses = rolling_losses(network, np.array(ids), overlap)
    np.testing.assert_allclose(
        losses, np.concatenate([alone(network, *pair)[0] for pair in pairs]), atol=2e-5
    )


def test_what_cannot_be_scored(plain):
    with pytest.raises(ExportError, match="one id each"):
        score_continuations(random_network(plain, 0), [([1], [])])
    with pytest.raises(ExportError, match="an encoder"):
        score_continuations(random_network(replace(plain, causal=False), 0), [([1], [2])])
    with pytest.raises(DataError, match="overlap is a share"):
        rolling_pairs([1, 2, 3], 2, 1.0)
