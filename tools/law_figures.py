"""Published runs in `../shared/reference/laws`; the figures of docs/laws, and their numbers, out.

Only sets whose licence lets their points be shown: datablations and Routing (Apache-2.0), Gadre and Porian
(MIT), Cerebras-GPT (Apache-2.0). Run: python tools/law_figures.py [NAME ...]
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "bench" / "laws"))
from figure_parts import (
    DASH,
    FITTED,
    HELD,
    RECIPES,
    REFERENCE,
    SOLID,
    columns,
    constants,
    draw,
    layer,
    legend,
    line,
    picture,
    porian,
    rows_of,
    runs_of,
    scaled,
    table_of,
    text_of,
    trained,
    words,
)
from more_figures import curve, intervals, mixture, pooled, rates, tasks
from sets import load, split

from stepladder.laws.crosscheck import cross_checks, least_squares
from stepladder.laws.estimate import MILD_POWER, FitOptions
from stepladder.laws.fit import fit_law
from stepladder.laws.forms import predict
from stepladder.laws.repeat import fit_repeat
from stepladder.laws.table import read_observations
from stepladder.report.marks import COMPUTE, POINT, Spec, x_axis, y_axis
from stepladder.report.theme import BLUE, GREEN, GREY, PURPLE, VERMILLION
from stepladder.units import format_count


def kaplan() -> Spec:
    """Cerebras-GPT: L(C) with and without a floor, fitted to five runs, and the two dearer ones."""
    runs = load("cerebras")
    train, held = runs.take(np.arange(5)), runs.take(np.arange(5, 7))
    flops = np.geomspace(1e18, 1e25, 80)
    x = scaled(x_axis("flops", COMPUTE, log=True, number_format=".0e"), 1e18, 1e25)
    y = scaled(y_axis("loss", "loss on the Pile (nats a token)"), 1.0, 2.8)
    layers = []
    for form, colour, word in (("kaplan-c", BLUE, "no floor"), ("kaplan-c-floor", PURPLE, "floor")):
        known = constants(form, train)
        errors = predict(form, known, held.params, held.tokens) / held.loss - 1
        print(f"kaplan: {form} {text_of(known)}; errors {errors[0]:+.2%} at 6.7B, {errors[1]:+.2%} at 13B")
        curve = columns(
            flops=flops, loss=predict(form, known, np.sqrt(flops / 120), np.sqrt(flops / 120) * 20)
        )
        layers += [line(curve, colour, x, y), words([{**curve[-1], "label": word}], x, y, colour)]
    layers += [layer(runs_of(train), FITTED, x, y), layer(runs_of(held), HELD, x, y)]
    layers.append(words([{**runs_of(train)[2], "label": "fitted"}], x, y, dy=-8))
    layers.append(words([{**runs_of(held)[0], "label": "6.7B and 13B, not fitted"}], x, y, dy=-8))
    return picture(layers, 300, "Loss of Cerebras-GPT against compute with two laws.")


def joint() -> Spec:
    """Porian et al., RefinedWeb: additive and coupled law, fitted alike to the cheaper 70 %."""
    train, held = split(trained(load("porian-rw")), 0.3)
    chosen = {"9.81M": 5e9, "37.1M": 1e10, "149M": 3e10, "347M": 3e10, "902M": 3e10}
    x = scaled(x_axis("tokens", "training tokens", log=True, number_format="~s"), 2e7, 3e10)
    y = scaled(y_axis("loss", "held-out loss (nats a token)"), 2.8, 6.0)
    layers = []
    for word, form, options in (
        ("published", "chinchilla", {"method": "plain"}),
        ("added", "chinchilla", {"weight_power": MILD_POWER}),
        ("joined", "coupled", {"weight_power": MILD_POWER}),
        ("default", "coupled", {}),
    ):
        known = constants(form, train, **options)
        error = predict(form, known, held.params, held.tokens) / held.loss - 1
        print(
            f"joint: {word:<9} {np.abs(error).mean():.2%}, signed {error.mean():+.2%} on the {len(held)} "
            f"dearest of {len(held) + len(train)} runs; {text_of(known)}"
        )
        if "weight_power" not in options:
            continue
        colour, dash = (PURPLE, DASH) if form == "chinchilla" else (BLUE, SOLID)
        for size in np.unique(held.params.tolist() + train.params.tolist()):
            if (name := format_count(size)) in chosen:
                tokens = np.geomspace(max(2 * size, 2.2e7), chosen[name], 60)
                curve = columns(tokens=tokens, loss=predict(form, known, size, tokens))
                layers.append(line(curve, colour, x, y, dash))
                if form == "coupled":
                    layers.append(words([{**curve[-1], "label": name}], x, y, colour))
    for table, mark in ((train, FITTED), (held, HELD)):
        shown = [row for row in runs_of(table) if format_count(row["params"]) in chosen]
        layers.append(layer(shown, mark, x, y))
    key = {"fitted: the cheaper 70 %": GREY, "not fitted": VERMILLION}
    key |= {"terms joined, κ free": BLUE, "terms added, κ = 1 (dashed)": PURPLE}
    layers += legend(key, (7e8, 5.85), 0.17, (x, y))
    return picture(layers, 420, "Loss against tokens at five sizes with an additive and a coupled law.")


def isoflop() -> Spec:
    """Porian et al., RefinedWeb: loss over size at levels of compute; the best size by law and parabola."""
    runs = trained(porian(RECIPES["+ tuned rate, batch"]))
    for method in ("auto", "plain"):
        law = fit_law(runs, FitOptions(method=method))
        found = cross_checks(runs, law.form, law.terms)
        print(f"isoflop: {method} ({law.form}): {', '.join(f'{k} {v:+.3f}' for k, v in found.items())}")
    known = constants("coupled", runs, weight_power=0.0)
    x = x_axis("params", "parameters", log=True, number_format="~s")
    y = y_axis("loss", "held-out loss (nats a token)")
    layers = []
    for level in np.unique(runs.flops)[1::2]:
        near = runs.take(np.flatnonzero(runs.flops == level))
        if len(near) < 4:
            continue
        log_n = np.linspace(np.log(near.params.min()), np.log(near.params.max()), 80)
        middle = np.log(near.params).mean()
        bowl = np.polyfit(np.log(near.params) - middle, near.loss, 2)
        fitted = predict("coupled", known, np.exp(log_n), level / 6 / np.exp(log_n))
        for values, colour, dash in ((fitted, BLUE, SOLID), (np.polyval(bowl, log_n - middle), PURPLE, DASH)):
            curve = columns(params=np.exp(log_n), loss=values)
            layers += [line(curve, colour, x, y, dash)]
            if 0 < values.argmin() < 79:
                layers.append(layer([curve[values.argmin()]], {**HELD, "color": colour}, x, y))
        layers.append(layer(runs_of(near), FITTED, x, y))
        label = f"{level:.1e} FLOP"
        layers.append(words([{**runs_of(near)[near.params.argmax()], "label": label}], x, y))
    key = {"law": BLUE, "parabola at each compute (dashed)": PURPLE}
    layers += legend(key, (1.2e8, 4.75), 0.1, (x, y))
    return picture(layers, 380, "Loss over size at equal compute with law and parabola.")


def repeated() -> Spec:
    """datablations: loss over epochs on 100 M unique tokens, and the law of all 296 runs."""
    runs = read_observations(REFERENCE / "datablations_c4.csv")
    law = fit_repeat(runs, None)
    print(
        f"repeated: R_D* {law.data_halflife:.3g} ({law.low[0]:.3g} to {law.high[0]:.3g}), R_N* "
        f"{law.size_halflife:.3g} ({law.low[1]:.3g} to {law.high[1]:.3g}), rms {law.rms_residual:.1%}; "
        f"{law.source}"
    )
    x = scaled(x_axis("epochs", "epochs over 100 M tokens", log=True, number_format="~s"), 0.9, 12_000)
    y = scaled(y_axis("loss", "validation loss (nats a token)"), 3.0, 7.6)
    layers = []
    lasts = {14.1e6: 9000, 44e6: 1740, 146.5e6: 1740, 421.2e6: 320, 1096.3e6: 120}
    for (size, last), colour in zip(lasts.items(), (GREEN, BLUE, PURPLE, VERMILLION, GREY), strict=True):
        same = np.isclose(runs.params, size, rtol=0.01) & np.isclose(runs.unique_tokens, 1e8, rtol=0.01)
        seen = runs.take(np.flatnonzero(same & (runs.loss < 7.6)))
        epochs = np.geomspace(1, last, 80)
        loss = law.loss(np.full(80, size), epochs * 1e8, np.full(80, 1e8))
        curve = [row for row in columns(epochs=epochs, loss=loss) if row["loss"] < 7.6]
        points = columns(epochs=seen.tokens / seen.unique_tokens, loss=seen.loss)
        layers += [line(curve, colour, x, y), layer(points, {**POINT, "size": 40, "color": colour}, x, y)]
        dy = {44e6: 6, 146.5e6: -6}.get(size, 0)
        layers.append(words([{**curve[-1], "label": format_count(size)}], x, y, colour, dy=dy))
    epochs = np.geomspace(1, 80, 60)
    fresh = columns(epochs=epochs, loss=law.loss(np.full(60, 421.2e6), epochs * 1e8, epochs * 1e8))
    layers.append(line(fresh, VERMILLION, x, y, DASH))
    note = {**fresh[-1], "label": "421M, were every token new"}
    return picture([*layers, words([note], x, y, VERMILLION)], 380, "Loss over epochs at five sizes.")


def overtraining() -> Spec:
    """Gadre et al., RedPajama: five cheap runs, and two forecasts of runs far dearer."""
    runs = load("gadre-rpj")
    ratio = np.round(runs.tokens / runs.params)

    def pick(size: float, multiple: float) -> int:
        return int(np.flatnonzero((np.abs(runs.params / size - 1) < 0.03) & (ratio == multiple))[0])

    small = [pick(size, 20) for size in (1.057e7, 7.89e7, 1.537e8, 4.116e8)] + [pick(1.057e7, 320)]
    known = least_squares("gadre", runs.take(np.array(small)))
    print(f"overtraining: {text_of(known)}")
    x = scaled(x_axis("flops", COMPUTE, log=True, number_format=".0e"), 5e15, 7e23)
    y = scaled(y_axis("loss", "loss on C4 (nats a token)"), 2.2, 5.8)
    layers = []
    for multiple, colour, dx, dy in ((20, BLUE, 7, 0), (320, GREEN, 4, -10), (640, PURPLE, 18, 0)):
        flops = np.geomspace(1e16 * multiple / 20, 9e21, 50)
        sizes = np.sqrt(flops / 6 / multiple)
        curve = columns(flops=flops, loss=predict("gadre", known, sizes, sizes * multiple))
        some = runs_of(runs.take(np.flatnonzero(ratio == multiple)))
        layers += [line(curve, colour, x, y), layer(some, {**FITTED, "color": colour}, x, y)]
        label = f"{multiple} tokens a parameter"
        layers.append(words([{**curve[0], "label": label}], x, y, colour, dx=dx, dy=dy))
    five = runs_of(runs.take(np.array(small)))
    layers.append(layer(five, {**POINT, "filled": False, "size": 130, "color": GREY}, x, y))
    layers.append(words([{**five[2], "label": "fitted (circled)"}], x, y, align="right", dx=-12, dy=8))
    for name, at, dy in (("1.4B on 640", pick(1.44e9, 640), -9), ("6.9B on 20", pick(6.89e9, 20), 8)):
        said, loss = float(predict("gadre", known, runs.params[at], runs.tokens[at])), runs.loss[at]
        print(f"overtraining: {name}: {said:.4f}, measured {loss:.4f}, {said / loss - 1:+.2%}")
        row = runs_of(runs.take(np.array([at])))[0] | {"label": f"{name}: {said / loss - 1:+.1%}"}
        layers += [layer([row], HELD, x, y), words([row], x, y, VERMILLION, dx=10, dy=dy)]
    return picture(layers, 360, "Loss against compute at three ratios with the law of five runs.")


def experts() -> Spec:
    """Clark et al.: loss over the number of experts at six sizes, and two laws."""
    last: dict[str, dict[str, str]] = {}
    for row in rows_of("routing_clark2022"):
        name = row["run_id"].rsplit("-st", 1)[0]
        if (row["k"], row["routing_frequency"]) == ("1", "0.5") and row["loss"]:
            last[name] = max(row, last.get(name, row), key=lambda item: float(item["step"]))
    runs = table_of(last.values(), "active_params")
    x = scaled(x_axis("experts", "experts", log=True, number_format="d"), 0.9, 600)
    x["axis"] = {"values": [4**k for k in range(5)] + [512], "grid": False}
    y = scaled(y_axis("loss", "validation loss (nats a token)"), 1.9, 3.2)
    grid, layers = np.geomspace(1, 512, 40), []
    for power, colour, dash in ((0.0, PURPLE, DASH), (None, BLUE, SOLID)):
        law = fit_law(runs, FitOptions(form="experts", weight_power=power))
        print(
            f"experts: {len(runs)} runs, weights C^{law.quality['weight_power']:g}: {law.form}, rms "
            f"{law.quality['rms_residual']:.2%}, {text_of(law.terms)}"
        )
        for size in np.unique(runs.params):
            loss = predict(law.form, law.terms, np.full(40, size), np.full(40, 6.5e10), {"experts": grid})
            curve = columns(experts=grid, loss=loss)
            layers.append(line(curve, colour, x, y, dash))
            if power is None:
                layers.append(words([{**curve[-1], "label": format_count(size)}], x, y, colour))
    key = {"weights chosen by the fit": BLUE, "equal weights, experts saturate (dashed)": PURPLE}
    layers += legend(key, (20, 3.12), 0.055, (x, y))
    layers.append(layer(columns(experts=runs.extra["experts"], loss=runs.loss), FITTED, x, y))
    return picture(layers, 400, "Loss over the number of experts.")


FIGURES = (
    kaplan,
    joint,
    isoflop,
    repeated,
    overtraining,
    tasks,
    rates,
    experts,
    curve,
    mixture,
    pooled,
    intervals,
)


def main(names: Sequence[str]) -> int:
    """Draw all figures, or those named."""
    return draw({item.__name__: item for item in FIGURES}, REFERENCE, names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
