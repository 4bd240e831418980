"""Parts of a climb in; the sections of the report out, each with the figures it draws."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stepladder.laws.diagnose import crossed
from stepladder.laws.forms import FORMS
from stepladder.records import Law, Observation, Score
from stepladder.report import curve, figures
from stepladder.report.html import Html, esc, facts, figure, join, listing, missing, paragraph, table, tag
from stepladder.report.marks import Spec
from stepladder.report.parts import COMMANDS, Parts
from stepladder.report.words import (
    UNITS,
    compute_of,
    excluded_reason,
    note_of,
    number_of,
    percent,
    short_name,
    show,
    show_interval,
    show_losses,
    show_range,
    verdict,
)
from stepladder.units import format_flops


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One part of the page: its anchor, title, HTML, and figure specifications by key."""

    key: str
    title: str
    body: Html
    figures: Mapping[str, Spec] = field(default_factory=dict)


def headline(parts: Parts) -> Section:
    """Forecast against outcome, said plainly."""
    pieces: list[Html] = []
    specs: dict[str, Spec] = {}
    forecast = parts.forecast
    for score in parts.scores:
        kind, sentence = verdict(score)
        pieces.append(paragraph(sentence, class_=f"verdict {kind}"))
    if "frozen" in parts.missing:
        pieces.append(paragraph(parts.missing["frozen"], class_="verdict miss"))
    if forecast and forecast.status == "refused":
        pieces.append(paragraph(f"The law refused this forecast: {forecast.reason}", class_="verdict half"))
    if forecast and not parts.scores:
        unit = UNITS.get(forecast.loss_unit, forecast.loss_unit)
        sentence = f"Forecast held-out loss: {show_interval('loss', forecast.loss)} {unit}. Not measured yet."
        pieces.append(paragraph(sentence, class_="verdict open"))
        specs["forecast-loss"] = figures.forecast_outcome("loss", forecast.loss, None)
    for part in ("forecast", "target", "score"):
        if part in parts.missing and not (part == "score" and len(pieces) > 0 and "target" in parts.missing):
            pieces.append(_missing(parts, part))
    if parts.scores:
        pieces.append(_score_table(parts.scores))
        specs |= {f"score-{score.quantity}": figures.score_figure(score) for score in parts.scores}
    captions = {key: _score_caption(key) for key in specs}
    pieces += [figure(key, caption) for key, caption in captions.items()]
    if forecast:
        date = (
            forecast.created.replace("T", " ").replace("+00:00", " UTC") or "at a date that is not recorded"
        )
        frozen = f"Frozen {date}, fingerprint {forecast.fingerprint or 'none'}."
        reach = (
            f" The target has {forecast.horizon:.3g} times the compute of the largest rung."
            if math.isfinite(forecast.horizon)
            else ""
        )
        pieces.append(paragraph(frozen + reach, class_="note"))
    return Section(key="outcome", title="Forecast and outcome", body=join(pieces), figures=specs)


def law(parts: Parts) -> Section:
    """The fitted law, its constants, and where rungs, forecast and target lie on it."""
    if parts.law is None:
        return Section(key="law", title="The law", body=_missing(parts, "law"))
    fitted, rungs, forecast = parts.law, parts.ladder.observations, parts.forecast
    outcome = curve.outcome_row(parts.target.run, fitted.loss_unit)
    band = curve.law_band(fitted, rungs, forecast) if forecast and rungs else []
    specs = {
        "law": figures.law_curve(rungs, band, curve.forecast_row(forecast), outcome, fitted.loss_unit),
        "sizes": figures.loss_by_tokens(
            rungs, curve.size_curves(fitted, rungs, forecast), outcome, fitted.loss_unit
        ),
    }
    if residuals := curve.residual_rows(fitted, rungs):
        specs["residuals"] = figures.residuals(residuals)
    quality = fitted.quality
    known = FORMS.get(fitted.form)
    pieces = [
        paragraph(_equation(fitted.form, fitted.terms), class_="equation"),
        paragraph(
            f"{fitted.points} runs, loss in {UNITS.get(fitted.loss_unit, fitted.loss_unit)}"
            + (f"; {known.source}." if known else "."),
            class_="note",
        ),
        *([paragraph(f"Refused: {fitted.refusal}", class_="verdict half")] if fitted.refusal else []),
        *[figure(key, _LAW_CAPTIONS[key]) for key in specs],
        _constants(fitted),
    ]
    if "certified" in quality:
        pieces.append(paragraph(_certificate(quality), class_="note"))
    return Section(key="law", title="The law", body=join(pieces), figures=specs)


def ladder(parts: Parts) -> Section:
    """All rungs, the excluded ones too, and their in-context scores."""
    rungs = parts.ladder.observations
    if not rungs:
        return Section(key="ladder", title="The ladder", body=_missing(parts, "ladder"))
    unit = UNITS.get(parts.ladder.loss_unit, parts.ladder.loss_unit)
    head = (
        "run",
        "parameters",
        "tokens",
        "tokens per parameter",
        "compute (FLOP)",
        unit,
        "in-context score",
        "time",
        "kept",
    )
    rows = [_rung_cells(row) for row in rungs]
    dropped = [f"{row.run}: {reason}" for row in rungs if (reason := excluded_reason(row))]
    sentence = f"{len(rungs)} small runs; {len(dropped) or 'none'} kept out of the fit."
    pieces: list[Html] = [paragraph(sentence), table(head, rows, numbers=range(1, 8)), listing(dropped)]
    specs = {}
    if any(math.isfinite(note_of(row, "in_context_score")) for row in rungs):
        specs["in-context"] = figures.in_context_scores(rungs, parts.target.run)
        pieces.append(figure("in-context", _IN_CONTEXT))
    return Section(key="ladder", title="The ladder", body=join(pieces), figures=specs)


def plan(parts: Parts) -> Section:
    """Every number of the plan with interval, reason and source."""
    if parts.plan is None:
        return Section(key="plan", title="The plan", body=_missing(parts, "plan"))
    chosen = parts.plan
    shape, recipe, layout = chosen.shape, chosen.recipe, chosen.layout
    head = ("quantity", "value", "80 % interval", "how", "source")
    rows = [
        (
            tag("code", name),
            show(name, item.value),
            show_range(name, item.low, item.high),
            item.how,
            item.source,
        )
        for name, item in chosen.numbers.items()
    ]
    heads = f"{shape.num_heads} heads ({shape.num_kv_heads} for keys and values) of {shape.head_dim}"
    ways = layout.processes * layout.nodes
    shapes = {
        "model": f"{shape.num_layers} layers, {shape.width} wide, {heads}, MLP {shape.ffn_width}",
        "vocabulary and context": f"{shape.vocab_size:,} tokens, context of {shape.context_tokens:,}",
        "optimiser": f"{recipe.optimiser}, peak rates: hidden {recipe.hidden_lr:.3g}, "
        f"embeddings {recipe.embed_lr:.3g}, head {recipe.head_lr:.3g}",
        "schedule": f"warm-up {percent(recipe.warmup_share, 0)}, then constant, "
        f"decay over the last {percent(recipe.decay_share, 0)}",
        "layout": f"{layout.device}, {ways} process{'es' if ways > 1 else ''}, {layout.precision}, "
        f"sharding: {layout.shard}",
    }
    why = join([tag("code", "stepladder plan --why NAME"), " prints how a number came about."])
    pieces: list[Html] = [facts(shapes), table(head, rows, numbers=(1, 2)), paragraph(why, class_="note")]
    if chosen.limits:
        limits = [(name.replace("_", " "), percent(share)) for name, share in chosen.limits.items()]
        pieces.append(table(("limit", "probability of breaking it"), limits, numbers=(1,)))
    extra = _alternatives(parts)
    return Section(key="plan", title="The plan", body=join([*pieces, extra.body]), figures=extra.figures)


def training(parts: Parts) -> Section:
    """The target's loss by tokens."""
    lines = [row for row in parts.target.metrics if math.isfinite(number_of(row.get("tokens")))]
    if not lines:
        return Section(key="training", title="The target run", body=_missing(parts, "metrics"))
    run, last = parts.target.run, lines[-1]
    tokens = show("tokens", number_of(last["tokens"]))
    pairs = {
        "steps and tokens": f"{number_of(last.get('step')):,.0f} steps, {tokens} tokens",
        "held-out loss": show_losses(
            number_of(last.get("heldout_loss")), number_of(last.get("heldout_bits_per_byte"))
        ),
        "time": show("seconds", number_of(last.get("seconds"))),
    }
    if run:
        pairs |= {
            "parameters": show("params", run.params),
            "peak memory": show("num_bytes", run.peak_bytes),
            "status": run.status,
        }
    specs = {"training": figures.training_curve(lines)}
    caption = "Training loss is the mean over equal stretches of steps; both are in nats per token."
    return Section(
        key="training",
        title="The target run",
        body=join([facts(pairs), figure("training", caption)]),
        figures=specs,
    )


def _alternatives(parts: Parts) -> Section:
    assert parts.plan is not None
    rows = [row for row in parts.plan.alternatives if math.isfinite(number_of(row.get("loss")))]
    if not rows:
        sentence = paragraph("The plan lists no alternatives with a forecast loss.", class_="note")
        return Section(key="alternatives", title="", body=join([tag("h3", "Alternatives"), sentence]))
    names = [name for name in _ALTERNATIVE_COLUMNS if math.isfinite(number_of(rows[0].get(name)))]
    told = ["why"] if any(row.get("why") for row in rows) else []
    cells = [
        [*[row.get(name, "") for name in told], *[show(name, number_of(row.get(name))) for name in names]]
        for row in rows
    ]
    head = [*told, *[short_name(name) for name in names]]
    body = [tag("h3", "Alternatives"), table(head, cells, numbers=range(len(told), len(head)))]
    specs = {}
    chosen = {name: item.value for name, item in parts.plan.numbers.items()}
    if "loss" not in chosen and parts.forecast:
        chosen["loss"] = parts.forecast.loss.value
    cost = next(
        (name for name in ("usd", "seconds", "kwh", "flops") if name in names and chosen.get(name, 0) > 0), ""
    )
    if cost and "loss" in chosen and len(rows) > 1:
        unit = parts.law.loss_unit if parts.law else ""
        specs["pareto"] = figures.pareto_front(rows, chosen, cost, unit)
        body.append(figure("pareto", "Alternatives that the plan kept; nearer to the lower left is better."))
    return Section(key="alternatives", title="", body=join(body), figures=specs)


_ALTERNATIVE_COLUMNS = ("params", "tokens", "loss", "seconds", "usd", "kwh")
_LAW_CAPTIONS = {
    "law": "Law and forecast with 80 and 95 % intervals, at the target's ratio of tokens to parameters; "
    "rungs with another ratio lie off it.",
    "sizes": "The same law for each size; labels are parameters.",
    "residuals": "How far the law is from its own rungs; small errors here do not vouch for a target.",
}
_IN_CONTEXT = (
    "Loss early in the context minus loss late in it: how much a model gains from what it has just read. "
    "Where the target's score has another sign than the rungs', their law does not hold for it."
)


def _missing(parts: Parts, part: str) -> Html:
    return missing(parts.missing.get(part, f"No {part} was found."), COMMANDS.get(part, ""))


def _score_table(scores: tuple[Score, ...]) -> Html:
    head = (
        "quantity",
        "forecast",
        "80 % interval",
        "95 % interval",
        "measured",
        "error",
        "held",
    )
    rows = []
    for score in scores:
        name, at = score.quantity, score.forecast
        short = short_name(name)
        ranges = (show_range(name, at.low80, at.high80), show_range(name, at.low95, at.high95))
        held = (
            "both"
            if at.held80(score.outcome)
            else "95\u00a0%\u00a0only"
            if at.held95(score.outcome)
            else "neither"
        )
        rows.append(
            (
                short,
                show(name, at.value),
                *ranges,
                show(name, score.outcome),
                percent(score.relative_error, signed=True),
                held,
            )
        )
    return table(head, rows, numbers=range(1, 6))


def _score_caption(key: str) -> str:
    name = short_name(key.removeprefix("score-").removeprefix("forecast-"))
    return f"{name[0].upper()}{name[1:]}: the wide bar is the 80 % interval, the thin one the 95 % interval."


def _rung_cells(row: Observation) -> tuple[Any, ...]:
    score = note_of(row, "in_context_score")
    return (
        row.run + (f" (seed\u00a0{row.seed})" if row.seed else ""),
        show("params", row.params),
        show("tokens", row.tokens),
        f"{row.tokens / row.params:.3g}",
        format_flops(compute_of(row)),
        f"{row.loss:.4f}" if math.isfinite(row.loss) else "not finite",
        f"{score:+.3f}" if math.isfinite(score) else "",
        show("seconds", row.seconds) if math.isfinite(row.seconds) else "",
        "no" if excluded_reason(row) else "yes",
    )


def _constants(fitted: Law) -> Html:
    rows = []
    for name, value in fitted.terms.items():
        low, high = (fitted.quality.get(f"{name}_{end}80", math.nan) for end in ("low", "high"))
        rows.append((name, f"{value:.5g}", show_range("", low, high) if math.isfinite(low) else "not known"))
    return table(("constant", "value", "80 % interval"), rows, numbers=(1, 2))


def _equation(form: str, terms: Mapping[str, float]) -> Html:
    if not {"E", "A", "B", "alpha"} <= set(terms):
        return esc(f"L = {FORMS[form].equation if form in FORMS else form}")
    size = f"{terms['A']:.4g} / <i>N</i><sup>{terms['alpha']:.3g}</sup>"
    data = f"{terms['B']:.4g} / <i>D</i><sup>{terms.get('beta', terms['alpha']):.3g}</sup>"
    both = f"{size} + {data}"
    if "kappa" in terms:
        power = f"<sup>1/{terms['kappa']:.3g}</sup>"
        both = f"[({size}){power} + ({data}){power}]<sup>{terms['kappa']:.3g}</sup>"
    return Html(f"L(<i>N</i>, <i>D</i>) = {terms['E']:.4g} + {both}")


def _certificate(quality: Mapping[str, float]) -> str:
    state = "certified" if quality["certified"] else "not certified"
    text = f"Optimum {state}: {percent(quality.get('success_share', math.nan), 0)} of the starts reached it"
    return text + f"; residuals {percent(quality.get('rms_residual', math.nan), 2)} (root mean square)."


def warnings(parts: Parts) -> Section:
    """What a reader must know before using any figure of the page."""
    items = [item for item in parts.missing.values() if "cannot be used" in item or "was changed" in item]
    items += list(parts.law.warnings) if parts.law else []
    items += [f"The law is refused: {parts.law.refusal}"] if parts.law and parts.law.refusal else []
    items += [
        f"Rung {row.run} was kept out: {reason}"
        for row in parts.ladder.observations
        if (reason := excluded_reason(row))
    ]
    items += _mismatches(parts)
    run = parts.target.run
    scores = [note_of(row, "in_context_score") for row in parts.ladder.observations]
    items += [text] if run and (text := crossed(scores, run.in_context_score)) else []
    items += [f"The target run ended with status {run.status!r}."] if run and run.status != "ok" else []
    items += [
        "A forecast holds for this corpus, tokenizer and recipe; other text or rates need their own ladder.",
        "Loss is not usefulness: see the task table for what the model does with labels.",
    ]
    return Section(key="limits", title="Limitations and warnings", body=listing(items))


def _mismatches(parts: Parts) -> list[str]:
    """Parts of the folder that do not belong together."""
    items = []
    plan, corpus, forecast, fitted = parts.plan, parts.corpus, parts.forecast, parts.law
    if plan and corpus and plan.corpus_fingerprint and plan.corpus_fingerprint != corpus.fingerprint:
        items.append("The plan was made for another corpus than the one in this folder.")
    if forecast and fitted and forecast.law_fingerprint and forecast.law_fingerprint != fitted.fingerprint:
        items.append("The forecast was made with another law than the one in this folder.")
    return items
