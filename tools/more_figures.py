"""Published runs in; the figures of tasks, rates, curves, mixtures, corpora and intervals out."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "bench" / "laws"))
import mixture as truths
import pooled as pools
import tasks as gadre
from figure_parts import (
    DASH,
    FITTED,
    HELD,
    RECIPES,
    columns,
    layer,
    line,
    named,
    picture,
    porian,
    rows_of,
    scaled,
    span,
    words,
)
from sets import load, split

from stepladder.laws.blend import best_mixture
from stepladder.laws.crosscheck import isoflop_exponent
from stepladder.laws.fit import fit_law
from stepladder.laws.intervals import forecast
from stepladder.laws.link import LINKS, columns_of
from stepladder.laws.mixture import fit_mixture, mixture_losses
from stepladder.laws.score import score
from stepladder.laws.tasks import fit_task, forecast_task
from stepladder.report.marks import DIAMOND, POINT, Spec, x_axis, y_axis
from stepladder.report.theme import BLUE, GREEN, GREY, PURPLE, VERMILLION
from stepladder.units import format_count


def tasks() -> Spec:
    """Gadre et al., RedPajama: accuracy on two tasks over loss; the dearest 30 % forecast."""
    train, held = split(load("gadre-rpj"), 0.3)
    law = fit_law(train)
    x = scaled(y_axis("loss", "loss on C4 (nats a token)"), 5.0, 2.3) | {"axis": {"grid": False}}
    y = scaled(y_axis("accuracy", "accuracy"), 0.2, 0.72) | {"axis": {"format": ".0%"}}
    layers, losses = [], np.linspace(2.4, 5.0, 60)
    for name, colour in (("hellaswag", BLUE), ("arc_easy", GREEN)):
        runs, outcome = (gadre.runs_of(table, name) for table in (train, held))
        task = fit_task(runs, law, links=gadre.ROUTES["two-step"])
        said = [forecast_task(task, n, d) for n, d in zip(held.params, held.tokens, strict=True)]
        error = 100 * (np.array([item.loss.value for item in said]) - outcome.values)
        inside = np.mean([item.loss.held80(a) for item, a in zip(said, outcome.values, strict=True)])
        print(
            f"tasks: {name}, {task.chosen}: {np.abs(error).mean():.2f} points (signed {error.mean():+.2f}), "
            f"{inside:.0%} of {len(held)} inside 80 %; {task.refusal or 'not refused'}"
        )
        at = columns_of(LINKS[task.chosen], losses, np.ones(60), np.ones(60))
        curve = columns(loss=losses, accuracy=task.links[task.chosen].accuracy(at)[0])
        seen = np.flatnonzero(train.loss < 5)
        points = columns(loss=train.loss[seen], accuracy=runs.values[seen])
        layers += [line(curve, colour, x, y), layer(points, {**FITTED, "color": colour}, x, y)]
        held_out = columns(loss=held.loss, accuracy=outcome.values)
        layers.append(layer(held_out, {**HELD, "color": colour}, x, y))
        layers.append(words([{**curve[0], "label": name}], x, y, colour))
    note = {"loss": 3.3, "accuracy": 0.62, "label": "diamonds: dearest 30 %, not fitted"}
    return picture([*layers, words([note], x, y, align="right")], 340, "Accuracy over loss on two tasks.")


def rates() -> Spec:
    """Porian et al., RefinedWeb: the exponent of the best size as settings are mended, ours and published."""
    names = ("hparams", "warmup", "decay", "param_count")
    rows = {";".join(f"{k}={r[k]}" for k in names): r for r in rows_of("porian_published_exponents")[:5]}
    shown = []
    for word, recipe in RECIPES.items():
        found = isoflop_exponent(porian(recipe)).exponent
        said, low, high = (float(rows[recipe][key]) for key in ("a_basic", "lo", "hi"))
        print(f"rates: {word:<20} {found:.3f}, published {said:.3f} ({low:.3f} to {high:.3f})")
        shown.append({"what": word, "exponent": found, "low": low, "high": high, "label": f"{found:.2f}"})
    y = named("what")
    x = scaled(y_axis("exponent", "exponent a of the best size, N ~ C^a"), 0.45, 0.92)
    bar = {"strokeWidth": 7, "opacity": 0.5, "color": GREY}
    layers = [span(shown, "low", "high", bar, (x, y)), layer(shown, {**POINT, "color": BLUE}, x, y)]
    layers.append(words(shown, {**x, "field": "high"}, y))
    return picture(layers, {"step": 34}, "Exponent of the compute-optimal size under five settings.")


def curve() -> Spec:
    """Porian et al., RefinedWeb: the excess of a loss read before the end of the decay."""
    before, after = porian(RECIPES["+ short warm-up"]), porian(RECIPES["+ decay to the end"])
    finished = {(n, c): v for n, c, v in zip(after.params, after.flops, after.loss, strict=True)}
    rows = [
        {"size": format_count(n), "params": n, "tokens": d, "gap": 100 * (v / finished[n, c] - 1)}
        for n, d, c, v in zip(before.params, before.tokens, before.flops, before.loss, strict=True)
        if (n, c) in finished and d >= 5 * n
    ]
    gaps = [row["gap"] for row in rows if row["tokens"] >= 20 * row["params"]]
    print(
        f"curve: {len(gaps)} pairs of 20 tokens a parameter or more: {min(gaps):+.2f} to {max(gaps):+.2f} %, "
        f"median {np.median(gaps):+.2f} %"
    )
    rows = [row for row in rows if row["size"] in ("22.5M", "37.1M", "84.8M", "149M", "221M")]
    x = scaled(
        x_axis("tokens", "tokens at which the loss is read", log=True, number_format="~s"), 1e8, 2.5e10
    )
    y = y_axis("gap", "above a run that had decayed by then (%)")
    ends = {row["size"]: {**row, "label": row["size"]} for row in sorted(rows, key=lambda r: r["tokens"])}
    dots = layer(rows, {**FITTED, "color": BLUE}, x, y)
    layers = [line(rows, BLUE, x, y), dots, words(list(ends.values()), x, y, BLUE)]
    return picture(layers, 320, "Excess of losses read before the decay.")


def mixture() -> Spec:
    """Two made-up domains: eight runs with noise, the law, the truth, and the mixture that it chooses."""
    case = truths.make("power", 2, 8, 0.005, 7)
    law = fit_mixture(case.runs)
    best = best_mixture(law)
    share, even = best.shares["d0"], np.full(2, 0.5)
    own = case.mean(np.array([share.value, 1 - share.value])) / case.best - 1
    print(
        f"mixture: share {share.value:.3f} (80 % {share.low:.3f} to {share.high:.3f}), {best.status}; true "
        f"mean loss {own:.2%} above the least, uniform {case.mean(even) / case.best - 1:.2%}"
    )
    grid = np.linspace(0, 1, 60)
    shares = np.stack([grid, 1 - grid], axis=1)
    x = scaled(y_axis("share", "share of domain a"), 0, 1) | {"axis": {"format": ".0%", "grid": False}}
    y = y_axis("loss", "loss (nats a token)")
    layers = []
    three = (
        ("on domain a", BLUE, [1, 0]),
        ("on domain b", GREEN, [0, 1]),
        ("their mean", PURPLE, [0.5, 0.5]),
    )
    for word, colour, weight in three:
        said, true, seen = (
            item @ weight for item in (mixture_losses(law, shares)[0], case.loss(shares), case.runs.loss)
        )
        layers.append(line(columns(share=grid, loss=true), GREY, x, y, DASH))
        layers.append(line(columns(share=grid, loss=said), colour, x, y))
        points = columns(share=case.runs.shares[:, 0], loss=seen)
        layers.append(layer(points, {**POINT, "size": 40, "color": colour}, x, y))
        layers.append(words([{"share": 1.0, "loss": said[-1], "label": word}], x, y, colour, dx=10))
    row = {"share": share.value, "loss": best.mean_loss.value, "low": share.low, "high": share.high}
    layers.append(span([row], "low", "high", {"strokeWidth": 6, "opacity": 0.5, "color": VERMILLION}, (x, y)))
    layers.append(layer([row], HELD, x, y))
    layers.append(words([{**row, "label": "best mixture"}], x, y, VERMILLION, align="center", dx=0, dy=16))
    return picture(layers, 340, "Losses over the share of one of two domains.")


def pooled() -> Spec:
    """Error of forecasts for a corpus of few runs, alone and pooled with a sister corpus."""
    rows = []
    for first, second in pools.GROUPS[:2]:
        for name, other in ((first, second), (second, first)):
            alone, both = pools.one(name, [other])
            few = -(-len(split(load(name), pools.SHARE)[0]) // pools.KEEP)
            rows.append({"what": f"{name}, {few} runs", "alone": alone, "pooled": both})
    y = named("what")
    x = scaled(y_axis("alone", "mean error on the dearest 30 % of the runs (%)"), 0, 4.6)
    other = {**x, "field": "pooled"}
    layers = [span(rows, "pooled", "alone", {"strokeWidth": 2, "color": GREY}, (x, y))]
    layers += [layer(rows, {**POINT, "color": c, "size": 110}, at, y) for c, at in ((GREY, x), (BLUE, other))]
    layers.append(words([{**rows[0], "label": "alone"}], x, y, GREY, dx=10))
    layers.append(words([{**rows[0], "label": "pooled"}], other, y, BLUE, align="right", dx=-10))
    return picture(layers, {"step": 40}, "Errors alone and pooled.")


def intervals() -> Spec:
    """Hold-outs of six sets: the share of outcomes inside the 80 and the 95 % interval."""
    rows = []
    for name in ("datablations-1ep", "gadre-c4", "gadre-rpj", "porian-rw", "porian-owt2", "routing-dense"):
        found = []
        for part in (0.1, 0.2, 0.3, 0.5):
            train, held = split(load(name), part)
            law = fit_law(train)
            runs = zip(held.params, held.tokens, held.loss, strict=True)
            found += [score(forecast(law, n, d), v) for n, d, v in runs]
        shares = [np.mean([s.forecast.held80(s.outcome) for s in found])]
        shares.append(np.mean([s.forecast.held95(s.outcome) for s in found]))
        width = np.median([s.forecast.high95 / s.forecast.low95 - 1 for s in found])
        error = np.mean([abs(s.relative_error) for s in found])
        label = f"error {error:.1%}, width {width:.0%}"
        print(f"intervals: {name}: {shares[0]:.0%} and {shares[1]:.0%} of {len(found)} inside, {label}")
        row = {"what": name, "held80": 100 * shares[0], "held95": 100 * shares[1]}
        rows.append({**row, "label": label, "end": 101})
    y = named("what")
    x = scaled(y_axis("held80", "outcomes inside the interval (%)"), 60, 100)
    layers: list[Spec] = []
    for level, colour, mark in ((80, BLUE, {**POINT, "size": 150}), (95, PURPLE, {**DIAMOND, "size": 75})):
        claim = [{"at": level, "label": f"{level} % claimed"}]
        style = {"type": "rule", "color": colour, "strokeDash": [4, 4]}
        at = {**x, "field": "at"}
        layers.append({"data": {"values": claim}, "mark": style, "encoding": {"x": at}})
        layers.append(words(claim, at, {"value": -8}, colour, align="center", dx=0))
        layers.append(layer(rows, {**mark, "color": colour}, {**x, "field": f"held{level}"}, y))
    layers.append(words(rows, {**x, "field": "end"}, y))
    return picture(layers, {"step": 34}, "Shares inside the intervals for six sets.")
