"""Requests of lm-eval in; what our runtime answers out: that harness's model "stepladder" (torch, lm-eval).

Tokens are those that its own model "hf" makes of the folder's export: a text begins as the tokenizer says
unless it spells that beginning, the names of control tokens stand for them, what is too long loses its
beginning. The rolling log-likelihood therefore also predicts the beginning of a text, after another one.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from stepladder.errors import TaskError
from stepladder.eval.generate import Speaker, open_speaker
from stepladder.eval.scorer import check_ids, write_ids
from stepladder.models.generate import Sampling
from stepladder.models.score import Pair, continuation_losses, rolling_pairs

_KNOWN_KEYS = frozenset(("until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p"))
# What lm-eval's own models generate where a task says nothing.
_NEW_TOKENS = 256


@register_model("stepladder")
class StepladderLM(TemplateLM):
    """A run, tuned folder or Hugging Face folder of a decoder as lm-eval asks models.

    `lm_eval.simple_evaluate` and its command line also pass batch_size, max_batch_size and device: batches
    are chosen here, and the weights stay where they are.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        tokenizer: str | Path | None = None,
        *,
        speaker: Speaker | None = None,
        **unused: Any,
    ) -> None:
        super().__init__()
        if speaker is None:
            if folder is None:
                raise TaskError("lm-eval's model stepladder needs a folder", allowed="folder=target@1")
            speaker = open_speaker(Path(folder), None if tokenizer is None else Path(tokenizer))
        self.speaker = speaker
        self._device = speaker.network.embed_tokens.weight.device

    @property
    def max_length(self) -> int:
        """Ids that the network sees."""
        return self.speaker.network.shape.context_tokens

    @property
    def eot_token_id(self) -> int:
        return self.speaker.words.end_id

    @property
    def prefix_token_id(self) -> int:
        """What an empty context and a rolling text begin with."""
        begin = self.speaker.words.begin_id
        return self.eot_token_id if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        return "stepladder"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **unused: Any) -> list[int]:
        """Ids; with what the tokenizer puts around a text unless that is refused or the text spells it."""
        words = self.speaker.words
        ids = words.encode_marked(string)
        begins = string.startswith(self._token(self.prefix_token_id))
        is_whole = not begins if add_special_tokens is None else add_special_tokens
        return words.template.around(ids) if is_whole else ids

    def tok_decode(self, tokens: Sequence[int]) -> str:
        """Text of ids, without control tokens."""
        return self.speaker.words.decode(tokens)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation after its context, and whether greedy decoding says it."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **unused: Any
    ) -> list[tuple[float, bool]]:
        for (_, continuation), _, ids in requests:
            if not 0 < len(ids) <= self.max_length:
                raise TaskError(
                    f"the continuation {continuation[:60]!r} cannot be scored",
                    got=f"{len(ids)} tokens behind those of its context",
                    allowed=f"1 to {self.max_length}, the context of the network",
                )
        answers = [(-nats, is_greedy) for nats, is_greedy in self._summed([one[1:] for one in requests])]
        for (asked, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", asked, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each text, in windows that share one token."""
        pairs: list[Pair] = []
        owner: list[int] = []
        for at, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            found = rolling_pairs([self.prefix_token_id, *ids], self.max_length, 0.0) if ids else []
            pairs += found
            owner += [at] * len(found)
        sums = [0.0] * len(requests)
        for at, (nats, _) in zip(owner, self._summed(pairs), strict=True):
            sums[at] -= nats
        for request, answer in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return sums

    def _summed(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """Loss of each pair in nats, and whether it is what greedy decoding says."""
        check_ids([row for pair in pairs for row in pair], self.speaker.network)
        found = continuation_losses(self.speaker.network, pairs)
        return [(float(losses.sum()), is_greedy) for losses, is_greedy in found]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What follows each prompt; requests that are to be decoded alike are written together."""
        alike: dict[str, list[int]] = defaultdict(list)
        for at, request in enumerate(requests):
            alike[json.dumps(request.args[1], sort_keys=True)].append(at)
        answers = [""] * len(requests)
        for rows in alike.values():
            asked = requests[rows[0]].args[1]
            until, tokens, sampling = self._decoding(asked)
            room = self.max_length - tokens
            prompts = [self.tok_encode(requests[row].args[0])[-room:] for row in rows]
            texts = write_ids(self.speaker, prompts, tokens, until=until, sampling=sampling)
            for row, text in zip(rows, texts, strict=True):
                answers[row] = text
                self.cache_hook.add_partial("generate_until", requests[row].args, text)
        return answers

    def _decoding(self, asked: Mapping[str, Any]) -> tuple[list[str], int, Sampling]:
        """Stop strings, number of new tokens and sampling of a task's generation_kwargs."""
        how = normalize_gen_kwargs(dict(asked), _NEW_TOKENS)
        if unknown := sorted(how.keys() - _KNOWN_KEYS):
            raise TaskError(
                "a task asks for a way to generate that is not here",
                got=", ".join(unknown),
                allowed=", ".join(sorted(_KNOWN_KEYS)) + " in generation_kwargs",
            )
        if how["max_gen_toks"] >= self.max_length:
            raise TaskError(
                "a task asks for as many tokens as the network sees",
                got=f"max_gen_toks {how['max_gen_toks']}, a context of {self.max_length}",
                allowed=f"max_gen_toks below {self.max_length} in generation_kwargs",
            )
        sampling = Sampling()
        if how["do_sample"]:
            sampling = Sampling(
                temperature=float(how.get("temperature", 1.0)),
                top_k=int(how.get("top_k", 0)),
                top_p=float(how.get("top_p", 1.0)),
            )
        until = handle_stop_sequences(how["until"], self._token(self.eot_token_id))
        return until, how["max_gen_toks"], sampling

    def _token(self, number: int) -> str:
        """How the vocabulary spells an id."""
        return next(token for token, one in self.speaker.words.vocab.items() if one == number)
