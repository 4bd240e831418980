"""Generation and scoring with a cache, against the network that computes everything anew."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from stepladder.errors import ExportError  # noqa: E402
from stepladder.models import generate  # noqa: E402
from stepladder.models.generate import (  # noqa: E402
    Reading,
    Sampling,
    generate_many,
    generate_until,
    stream,
)
from stepladder.models.hf import random_network  # noqa: E402

END, VOCABULARY = 0, 90
PROMPTS = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16, 17, 18], [20, 21]]


def anew(network, prompt, new_tokens):
    """Greedy ids without a cache, from the last `context_tokens` ids each time."""
    row = list(prompt)
    for _ in range(new_tokens):
        logits = network(torch.tensor([row[-network.shape.context_tokens :]]))[0, -1, :VOCABULARY]
        token = int(logits.argmax())
        if token == END:
            break
        row.append(token)
    return row[len(prompt) :]


@torch.no_grad()
def test_logits_from_the_cache_are_those_of_the_whole(network):
    ids = torch.randint(1, 90, (3, 20), generator=torch.Generator().manual_seed(0))
    whole = network(ids)
    with Reading(network, 20) as reading:
        got = [reading.read(ids[:, :9]), *(reading.read(ids[:, at : at + 1]) for at in range(9, 20))]
    torch.testing.assert_close(torch.stack(got, 1), whole[:, 8:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network(ids), whole, rtol=0, atol=0)  # nothing is left behind


@torch.no_grad()
def test_a_ragged_batch_says_what_each_prompt_does_alone(network):
    expected = [anew(network, prompt, 12) for prompt in PROMPTS]
    assert generate_many(network, PROMPTS, 12, end=END, vocabulary=VOCABULARY) == expected
    assert [list(stream(network, one, 12, end=END, vocabulary=VOCABULARY)) for one in PROMPTS] == expected


@given(st.lists(st.integers(1, 80), max_size=9), st.integers(1, 3), st.integers(100, 400))
def test_batches_are_cut_so_that_filling_and_steps_cost_least(lengths, new_tokens, positions):
    lengths, context = sorted(lengths, reverse=True), 70
    lengths = [min(length, context) for length in lengths]

    def cost(cuts):
        parts = [(at, end) for at, end in itertools.pairwise(cuts)]
        room = [(end - at) * min(lengths[at] + new_tokens, context) for at, end in parts]
        if any(one > positions and end - at > 1 for one, (at, end) in zip(room, parts, strict=True)):
            return math.inf
        steps = new_tokens * generate._STEP_POSITIONS
        return sum((end - at) * lengths[at] + steps for at, end in parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "_BATCH_POSITIONS", positions)
        cuts = generate._cuts(lengths, new_tokens, context)
    inner = range(1, len(lengths))
    every = [
        [0, *chosen, len(lengths)]
        for count in range(len(lengths))
        for chosen in itertools.combinations(inner, count)
    ]
    assert cost(cuts) == min(map(cost, every), default=0)
    assert cuts == sorted(set(cuts))


@torch.no_grad()
def test_past_the_context_the_window_moves(network):
    prompts = [list(range(1, 31)), list(range(40, 80)), [3]]
    expected = [anew(network, prompt, 40) for prompt in prompts]
    assert generate_many(network, prompts, 40, end=END, vocabulary=VOCABULARY) == expected


def test_a_row_ends_where_it_says_so(network):
    said = anew(network, PROMPTS[0], 12)
    cut = generate_many(network, [PROMPTS[0], PROMPTS[1]], 12, end=said[-1], vocabulary=VOCABULARY)
    assert cut[0] == said[: said.index(said[-1])]


@pytest.mark.parametrize("allowed", [[[7], [7, 8, 9], [30, 31]], [[50]]])
def test_only_what_is_allowed_is_said(network, allowed):
    said = generate_many(network, PROMPTS, 12, end=END, allowed=allowed)
    assert all(one in allowed for one in said)


def test_sampling_depends_on_the_seed_alone(network):
    how = Sampling(temperature=1.5, seed=4)
    many = generate_many(network, PROMPTS, 9, end=END, sampling=how)
    assert many == [generate_many(network, [one], 9, end=END, sampling=how)[0] for one in PROMPTS]
    assert many != generate_many(network, PROMPTS, 9, end=END, sampling=replace(how, seed=5))
    greedy = generate_many(network, PROMPTS, 9, end=END)
    assert greedy == generate_many(network, PROMPTS, 9, end=END, sampling=replace(how, top_k=1))
    assert greedy == generate_many(network, PROMPTS, 9, end=END, sampling=replace(how, top_p=0.0))


def test_a_row_that_is_over_says_no_more(network):
    whole = generate_many(network, PROMPTS, 12, end=END)
    asked = {"end": END, "is_over": lambda said: len(said) % 5 == 0 or said[-1] == whole[0][2]}
    cut = generate_until(network, PROMPTS, 12, **asked)
    for one, text in zip(whole, cut, strict=True):
        ends = [at for at in range(1, len(one) + 1) if at % 5 == 0 or one[at - 1] == whole[0][2]]
        assert text == one[: min([*ends, len(one)])]


def test_what_cannot_be_gone_on_from(plain):
    with pytest.raises(ExportError, match="an encoder does not write text"):
        generate_many(random_network(replace(plain, causal=False), 0), [[1]], 2, end=END)
    with pytest.raises(ExportError, match="without ids"):
        generate_many(random_network(plain, 0), [[1], []], 2, end=END)
