"""What methods scored on one test set in; what to do, and what the test cannot tell, out (no torch)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stepladder.eval.baselines import (
    CHANCE,
    COMMON_LABELS,
    LEXICON,
    LINEAR,
    MAJORITY,
    MEAN,
    MEDIAN,
    ONE_VS_REST,
    RIDGE,
)
from stepladder.eval.metrics import Metric
from stepladder.eval.predictions import NETWORKS, SCRATCH, TUNED
from stepladder.eval.resample import Estimate, Measure, paired_difference
from stepladder.eval.text_baselines import (
    ANY_SENTENCE,
    COMMON_ANSWER,
    COPY,
    LEAD,
    LEAD_WORDS,
    NEAREST,
    NO_ANSWER,
    WINDOW,
    WORDS,
)

# Cheap methods that learn or read something, and those that know nothing of the text: in the order of tables.
LEARNED = (LINEAR, ONE_VS_REST, RIDGE, WINDOW, NEAREST, WORDS, LEXICON, LEAD, LEAD_WORDS)
BLIND = (MAJORITY, COMMON_LABELS, MEDIAN, MEAN, COMMON_ANSWER, NO_ANSWER, COPY, ANY_SENTENCE, CHANCE)
_WORDS = {
    LINEAR: "the linear model",
    ONE_VS_REST: "the linear model",
    RIDGE: "the linear model",
    COMMON_LABELS: "the commonest labels",
    MAJORITY: "the majority class",
    CHANCE: "chance",
    NO_ANSWER: "saying that there is no answer",
    COPY: "copying the source",
    MEDIAN: "the median rating",
    MEAN: "the mean rating",
}
# Two-sided 5 % and power 80 %: 1.960 + 0.842 standard errors (Card et al. 2020, With little power comes great
# responsibility).
_DETECTABLE = 2.802
_LEVEL = 0.05
# Fewer groups than intervals were tried with (bench/tasks/coverage.py).
FEW_GROUPS = 25


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """The metric that decides, and what each method scored on it (one measure a seed)."""

    metric: Metric
    methods: Mapping[str, Sequence[Measure]]

    def gap(self, first: str, second: str) -> Estimate:
        """First - second on the same draws, above zero where the first is better."""
        better, worse = self._sides(first, second)
        return paired_difference(self.methods[better], self.methods[worse])

    def figures(self, first: str, second: str) -> tuple[Estimate, str]:
        """The gap, and its words with the metric's own sign."""
        gap = self.gap(first, second)
        value, low, high = gap.value, gap.low, gap.high
        if not self.metric.higher_is_better:
            value, low, high = -value, -high, -low
        digits = self.metric.digits
        return gap, (
            f"{value:+.{digits}f} {self.metric.label}, 95 % interval {low:+.{digits}f} to {high:+.{digits}f}"
        )

    def best(self, names: Sequence[str]) -> str | None:
        """The method with the best mean; the first of equal ones."""
        known = [name for name in names if name in self.methods]
        return max(known, key=self._quality) if known else None

    def _quality(self, name: str) -> float:
        values = [measure.value() for measure in self.methods[name]]
        return self.metric.better(sum(values) / len(values))

    def _sides(self, first: str, second: str) -> tuple[str, str]:
        return (first, second) if self.metric.higher_is_better else (second, first)


def verdict(found: Compared) -> str:
    """Which method to use, whether pretraining helped and whether anything was learned, from paired
    differences with 95 % intervals."""
    sentences = []
    network = next((name for name in NETWORKS if name in found.methods), None)
    rival = found.best(LEARNED)
    best, blind = found.best((*LEARNED, *NETWORKS)), found.best(BLIND)
    is_learned = not (best and blind and found.gap(best, blind).low <= 0)
    if network and rival:
        gap, figures = found.figures(network, rival)
        other = said(rival)
        if gap.high < 0:
            sentences.append(f"Use {other}: the {network} network loses to it ({figures}).")
        elif gap.low <= 0:
            sentences.append(
                f"Use {other}: the {network} network cannot be told from it ({figures}), and it is "
                "far cheaper."
            )
        elif is_learned:
            sentences.append(f"Use the {network} network: it beats {other} ({figures}).")
        else:
            sentences.append(f"The {network} network beats {other} ({figures}).")
    if TUNED in found.methods and SCRATCH in found.methods:
        gap, figures = found.figures(TUNED, SCRATCH)
        effect = (
            "helped" if gap.low > 0 else "hurt" if gap.high < 0 else "made no difference that can be told"
        )
        sentences.append(f"Pretraining {effect} ({figures}).")
    if best and blind and not is_learned:
        sentences.append(f"{best} does not beat {said(blind)}: this task was not learned.")
    return " ".join(sentences)


def limits(found: Compared, groups: int, examples: int) -> tuple[str, ...]:
    """What this test set can tell: the least difference it detects, what many comparisons leave of the
    differences, and whether its intervals are to be believed."""
    lines = []
    network = next((name for name in NETWORKS if name in found.methods), None)
    best = network or found.best(LEARNED)
    others = [name for name in found.methods if name != best and name not in BLIND]
    unit = f"{examples:,} test examples" + (f" in {groups:,} groups" if groups < examples else "")
    gaps = {name: found.gap(best, name) for name in others} if best else {}
    if gaps:
        least = f"{_DETECTABLE * max(gap.error for gap in gaps.values()):.{found.metric.digits}f}"
        lines.append(
            f"With {unit} a difference of {least} {found.metric.label} or more between two such methods is "
            "found four times in five (5 % two-sided); a smaller one often is not."
        )
    if len(gaps) > 1:
        kept = holm(gaps)
        lost = [name for name in gaps if name not in kept]
        told = f"{best} differs from {', '.join(kept)}" if kept else f"{best} differs from none of them"
        left = f", not from {', '.join(lost)}" if kept and lost else ""
        lines.append(f"{len(gaps)} comparisons at 5 % together (Holm): {told}{left}.")
    if groups < FEW_GROUPS:
        lines.append(
            f"Only {groups} independent {'groups' if groups < examples else 'examples'}: intervals were "
            f"tried from {FEW_GROUPS} on."
        )
    return tuple(lines)


def holm(gaps: Mapping[str, Estimate]) -> list[str]:
    """Which differences from zero stay when all are tested at 5 % together (Holm 1979), by their normal
    approximation with the standard error of the draws."""
    from scipy.stats import norm

    chances = {
        name: 2 * float(norm.sf(abs(gap.value) / gap.error)) if gap.error > 0 else float(gap.value == 0)
        for name, gap in gaps.items()
    }
    kept: list[str] = []
    for rank, name in enumerate(sorted(chances, key=lambda one: chances[one])):
        if chances[name] > _LEVEL / (len(chances) - rank):
            break
        kept.append(name)
    return kept


def said(method: str) -> str:
    """A method in a sentence."""
    return _WORDS.get(method, f'the method "{method}"')
