"""A task's rows in; texts that cheap methods answer, translate or sum up with out (no torch)."""

import random
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from stepladder.eval.baselines import CHANCE, Baseline, Said, TaskRows
from stepladder.eval.counts import answer_scores
from stepladder.eval.linear import sklearn_alone

NO_ANSWER, COMMON_ANSWER, WINDOW = "no answer", "commonest answer", "best window"
COPY, WORDS, NEAREST = "copy", "word for word", "nearest training pair"
LEAD, LEAD_WORDS, ANY_SENTENCE = "lead sentence", "lead words", "random sentence"
_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+|(?<=[。！？])")
# Words of a question count for what stands at most so far from them.
_REACH = 12
# Longer sentences and more pairs teach a dictionary little more and cost much.
_SENTENCE_WORDS, _PAIRS, _ROUNDS = 40, 20_000, 5
_ROWS_AT_ONCE = 500
_THRESHOLDS = 20


def text_baselines(task: TaskRows) -> dict[str, Baseline]:
    """By name, of span, answer, translation and summarisation; the best known ones first."""
    if task.kind == "translation":
        return {NEAREST: nearest, WORDS: word_for_word, COPY: copy, CHANCE: any_target}
    if task.kind == "summarisation":
        return {LEAD: lead, LEAD_WORDS: lead_words, ANY_SENTENCE: any_sentence}
    found: dict[str, Baseline] = {WINDOW: best_window}
    if task.kind == "answer":
        found[NEAREST] = nearest
    found[COMMON_ANSWER] = common_answer
    return found | ({} if all(task.gold("train")) else {NO_ANSWER: no_answer})


def no_answer(task: TaskRows, seed: int = 0) -> Said:
    """Never an answer."""
    return [""] * len(task.rows["test"]), []


def common_answer(task: TaskRows, seed: int = 0) -> Said:
    """The commonest first answer of the training questions that have one."""
    found = Counter(answers[0] for answers in task.gold("train") if answers)
    return [min(found, key=lambda text: (-found[text], text))] * len(task.rows["test"]), []


def copy(task: TaskRows, seed: int = 0) -> Said:
    """The source itself."""
    return task.asked("test"), []


def any_target(task: TaskRows, seed: int = 0) -> Said:
    """Training targets drawn by chance."""
    return random.Random(seed).choices(task.gold("train"), k=len(task.rows["test"])), []


def nearest(task: TaskRows, seed: int = 0) -> Said:
    """The answer of the training example whose TF-IDF of characters is nearest."""
    targets = [one if isinstance(one, str) else (one or [""])[0] for one in task.gold("train")]
    with sklearn_alone():
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectoriser = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), max_features=200_000)
        train = vectoriser.fit_transform(task.asked("train")).T.tocsr()
        test = vectoriser.transform(task.asked("test"))
        best = [
            np.asarray((test[at : at + _ROWS_AT_ONCE] @ train).argmax(axis=1)).ravel()
            for at in range(0, test.shape[0], _ROWS_AT_ONCE)
        ]
    return [targets[at] for at in np.concatenate(best)], []


def word_for_word(task: TaskRows, seed: int = 0) -> Said:
    """Every word by the one that the training pairs teach for it (IBM model 1, Brown et al. 1993); the order,
    marks and unknown words stay.
    """
    known = _dictionary(list(zip(task.asked("train"), task.gold("train"), strict=True))[:_PAIRS])

    def other(match: re.Match[str]) -> str:
        word = match.group()
        found = known.get(word.lower(), word)
        return found[:1].upper() + found[1:] if word[:1].isupper() else found

    return [_WORD.sub(other, text) for text in task.asked("test")], []


def lead(task: TaskRows, seed: int = 0) -> Said:
    """The first sentence."""
    return [_sentences(text)[0] for text in task.asked("test")], []


def lead_words(task: TaskRows, seed: int = 0) -> Said:
    """As many first words as half of the training summaries have at most."""
    length = int(np.median([len(text.split()) for text in task.gold("train")]))
    return [" ".join(text.split()[: max(length, 1)]) for text in task.asked("test")], []


def any_sentence(task: TaskRows, seed: int = 0) -> Said:
    """A sentence drawn by chance."""
    chooser = random.Random(seed)
    return [chooser.choice(_sentences(text)) for text in task.asked("test")], []


def best_window(task: TaskRows, seed: int = 0) -> Said:
    """The words, as many as half of the training answers have at most, that stand nearest to rare words of
    question (Richardson et al. 2013 call it a sliding window); none below a score that dev chooses.
    """
    answers = [one for one in task.gold("train") if one]
    length = max(int(np.median([len(_WORD.findall(one[0])) for one in answers])), 1)
    contexts = {row["context"] for row in task.rows["train"]}
    seen = Counter(word for text in contexts for word in set(_words(text)))
    rare = {word: float(np.log((len(contexts) + 1) / count)) for word, count in seen.items()}
    unseen = float(np.log(len(contexts) + 1))

    def windows(split: str) -> list[tuple[str, float]]:
        rows = task.rows[split]
        return [_window(row["question"], row["context"], length, rare, unseen) for row in rows]

    least = 0.0
    if len(answers) < len(task.rows["train"]):
        least = _threshold(windows("dev"), task.gold("dev"))
    return [text if score >= least else "" for text, score in windows("test")], []


def _window(
    question: str, context: str, length: int, rare: dict[str, float], unseen: float
) -> tuple[str, float]:
    """(text, share of the question's weight that stands around it)."""
    places = list(_WORD.finditer(context))
    if not places:
        return "", 0.0
    words = [place.group().lower() for place in places]
    weight = np.array([rare.get(word, unseen) for word in words])
    wanted = {word: rare.get(word, unseen) for word in _words(question)}
    asked = np.array([wanted.get(word, 0.0) for word in words])
    near = 1 / (1 + np.abs(np.arange(-_REACH, _REACH + 1)))
    around = np.convolve(asked, near, mode="full")[_REACH : _REACH + len(asked)] - asked
    size = min(length, len(words))
    score = np.convolve(around * weight - asked * unseen, np.ones(size), mode="valid")
    at = int(score.argmax())
    text = context[places[at].start() : places[at + size - 1].end()]
    return text, float(around[at : at + size].mean() / max(sum(wanted.values()), 1e-9))


def _threshold(windows: Sequence[tuple[str, float]], gold: Sequence[Sequence[str]]) -> float:
    """The score from which on to answer that has the best mean F1."""
    found = np.array([answer_scores(truth, text)[1] for truth, (text, _) in zip(gold, windows, strict=True)])
    silent = np.array([answer_scores(truth, "")[1] for truth in gold])
    scores = np.array([score for _, score in windows])
    steps = [0.0, *np.quantile(scores, np.linspace(0, 1, _THRESHOLDS)), np.inf]
    return float(max(steps, key=lambda least: np.where(scores >= least, found, silent).mean()))


def _dictionary(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The likeliest target word of each source word; words that no pair has are absent."""
    source_names: dict[str, int] = {}
    target_names: dict[str, int] = {}
    cells: list[tuple[int, int, int]] = []
    place = 0
    for source, target in pairs:
        own = [source_names.setdefault(w, len(source_names)) for w in _words(source)[:_SENTENCE_WORDS]]
        for word in _words(target)[:_SENTENCE_WORDS]:
            number = target_names.setdefault(word, len(target_names))
            cells += [(place, one, number) for one in own]
            place += 1
    if not cells:
        return {}
    group, source_at, target_at = np.array(cells).T
    keys, key = np.unique(source_at * len(target_names) + target_at, return_inverse=True)
    owner = keys // len(target_names)
    chance = np.ones(len(keys))
    for _ in range(_ROUNDS):
        each = chance[key]
        share = each / np.bincount(group, each)[group]
        total = np.bincount(key, share)
        chance = total / np.bincount(owner, total)[owner]
    order = np.lexsort((chance, owner))
    best = keys[order][np.flatnonzero(np.append(np.diff(owner[order]) > 0, True))]
    sources, targets = list(source_names), list(target_names)
    return {sources[one // len(targets)]: targets[one % len(targets)] for one in best.tolist()}


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()] or [text]


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]
