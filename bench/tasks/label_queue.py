"""Print accuracy after K labels by the queue of `stepladder data labels next` against K random ones.

    python bench/tasks/label_queue.py [--seeds 10] [--windows 1 2 4]

For each seed 200 rows of a training split are labelled; the pool is the rest, at most 3,000 rows. 200 more
are chosen by the queue (a tenth of them at random: these go to test and train nothing), by the queue without
random rows, or all at random, and the linear model learns from all labels. The figures are differences in
accuracy on the same test rows, paired by seed, with a 95 % interval over seeds (Student's t). `--windows`:
from how many times the wanted rows k-centre chooses; 1 is margin alone.
"""

import argparse
import time

import numpy as np
from labels import DEV_ROWS, example, sections, task_of
from scipy.stats import t

from stepladder.eval.baselines import TaskRows
from stepladder.eval.linear import WordCounts, fit_logistic, linear_logits, sklearn_alone
from stepladder.tune.queue import WINDOW, PoolView, choose, softmax, temperature

SETS = {
    "text-kind": lambda: example("text-kind"),
    "package sections": sections,
    "sentiment": lambda: example("sentiment"),
    "docstring-topic": lambda: example("docstring-topic"),
}
START, COUNT, POOL = 200, 200, 3_000


class Trials:
    """One set with its words counted once."""

    def __init__(self, task: TaskRows) -> None:
        train = task.asked("train")
        self.counts = WordCounts(train, task.asked("dev"), task.asked("test"), train)
        self.gold = {split: np.array(task.gold(split)) for split in task.rows}

    def learn(self, rows: np.ndarray) -> tuple[object, list]:
        """The linear model of some rows, and features of these, dev, test and all rows."""
        parts = self.counts.tfidf(rows)
        return fit_logistic(parts[0], self.gold["train"][rows], parts[1], self.gold["dev"]), parts

    def accuracy(self, rows: np.ndarray) -> float:
        """On the test split."""
        model, parts = self.learn(rows)
        return float(model.score(parts[2], self.gold["test"]))

    def view(self, rows: np.ndarray, pool: np.ndarray) -> PoolView:
        """The pool as the model of `rows` sees it."""
        model, parts = self.learn(rows)
        labels = list(model.classes_)
        dev = [labels.index(one) if one in labels else -1 for one in self.gold["dev"]]
        divisor = temperature(linear_logits(model, parts[1]), dev)
        shares = softmax(linear_logits(model, parts[3][pool]), divisor)
        return PoolView(
            labels=tuple(labels), probabilities=shares, features=parts[3][pool], labelled=parts[0]
        )

    def run(self, seed: int, windows: list[float]) -> dict[str, float]:
        """Accuracy after COUNT more labels, by how they were chosen."""
        order = np.random.default_rng(seed).permutation(len(self.gold["train"]))
        first, pool = order[:START], order[START : START + POOL]
        view = self.view(first, pool)
        found = {
            "before": self.accuracy(first),
            "random": self.accuracy(order[: START + COUNT]),
        }
        for window in windows:
            for share in (0.1, 0.0):
                chosen = choose(view, COUNT, random_share=share, window=window, seed=seed)
                rows = [pool[one.row] for one in chosen if not one.is_random]
                found[f"window {window:g}, {share:.0%} random"] = self.accuracy(np.concatenate([first, rows]))
        return found


def main() -> None:
    """A block a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--windows", type=float, nargs="+", default=[1.0, WINDOW])
    options = parser.parse_args()
    started = time.process_time()
    print(f"{START} labels, {COUNT} more of a pool of at most {POOL:,}, dev of {DEV_ROWS}")
    for name, make in SETS.items():
        with sklearn_alone():
            trials = Trials(task_of(name, make))
            found = [trials.run(seed, options.windows) for seed in range(options.seeds)]
        base = np.array([one["random"] for one in found])
        before = np.mean([one["before"] for one in found])
        print(f"\n{name}: {before:.3f} before, {base.mean():.3f} with {COUNT} at random")
        for way in (key for key in found[0] if key not in ("before", "random")):
            gain = 100 * (np.array([one[way] for one in found]) - base)
            half = t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
            low, high = gain.mean() - half, gain.mean() + half
            print(f"  {way:<24} {gain.mean():>+5.1f} points ({low:+.1f} to {high:+.1f})")
    print(f"{time.process_time() - started:.0f} s of CPU")


if __name__ == "__main__":
    main()
