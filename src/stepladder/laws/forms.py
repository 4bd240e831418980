"""Names of laws in; their terms as matrices, and losses predicted from constants out.

Every form here is L = Σ_k amplitude_k · exp(Σ exponent · column), so its log-loss is a log-sum-exp of terms
that are linear in θ = (log-amplitudes at the middle of the data, exponents). Columns are logs of size and
tokens and, for some forms, further ones of a run: its number of experts, its corpus. `repeat`, `curve`,
`tasks` and `mixture` hold the laws that are not of this kind.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from stepladder.errors import LawError, did_you_mean
from stepladder.laws.solve import softmax

Array = np.ndarray
Extra = Mapping[str, Any]
LOG6 = math.log(6.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """amplitude · exp(Σ exponent · Σ coefficient · column); powers: exponent → column → coefficient."""

    amplitude: str
    powers: Mapping[str, Mapping[str, float]]
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """A law. `exponents` gives each exponent's prior (mean, standard deviation); `share` of each term is
    its prior part of the loss at the middle of the data. `needs` names the column of the runs that the form
    reads beside size and tokens ("" for none); `coupled`: the terms after the first
    are joined as (Σ term^(1/κ))^κ, and κ is a constant of the law."""

    name: str
    equation: str
    source: str
    terms: tuple[Term, ...]
    exponents: Mapping[str, tuple[float, float]]
    needs: str = ""
    coupled: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Amplitudes, then exponents: the order of θ, in which κ, the last where there is one, is a log."""
        return (*(term.amplitude for term in self.terms), *self.exponents)

    @property
    def has_floor(self) -> bool:
        """Whether the first term is an irreducible loss E."""
        return self.terms[0].amplitude == "E"

    @property
    def joint(self) -> bool:
        """Whether size and tokens have terms of their own, so that one can be weighed against the other."""
        used = {name for term in self.terms for power in term.powers.values() for name in power}
        return {"N", "D"} <= used and len(self.terms) > 2

    @property
    def corpora(self) -> tuple[str, ...]:
        """Of a pooled form, the corpora that it knows."""
        return tuple(json.loads(self.name.removeprefix("pooled"))[1:]) if self.needs == "corpus" else ()

    @property
    def columns(self) -> tuple[str, ...]:
        """log N, log D, then the others that its terms use."""
        used = (name for term in self.terms for power in term.powers.values() for name in power)
        return tuple(dict.fromkeys(("N", "D", *used)))


# Exponents of published joint fits lie between .28 and .37 (arXiv:2203.15556, 2404.10102) and up to .45
# for small models on narrow text (docs/log.md); .35 ± .15 holds them all. Shares: as in ladder/design.
_JOINT = (0.35, 0.15)
_FLOOR = Term(amplitude="E", powers={}, share=0.5)
# Log-ratios of one corpus' floor or amplitude to another's.
_RATIO_SD = 0.3
# Exponents that fall by a third over two decades of size bend by .04.
_BEND_SD = 0.03
_N, _D, _C = {"N": -1.0}, {"D": -1.0}, {"N": -1.0, "D": -1.0, "six": -1.0}


def _term(amplitude: str, exponent: str, power: Mapping[str, float], share: float) -> Term:
    return Term(amplitude=amplitude, powers={exponent: power}, share=share)


def _single(letter: str, power: Mapping[str, float], *, floor: bool) -> Form:
    # Kaplan et al. without a floor: .076, .095, .050; the exponents over a floor are those of joint fits,
    # for compute αβ/(α+β) ≈ .18.
    free = {"N": (0.08, 0.05), "D": (0.095, 0.05), "C": (0.05, 0.04)}[letter]
    floored = (0.18, 0.08) if letter == "C" else _JOINT
    term = _term("A", "alpha", power, 0.5 if floor else 1.0)
    return Form(
        name=f"kaplan-{letter.lower()}" + ("-floor" if floor else ""),
        equation=("E + " if floor else "") + f"A/{letter}^alpha",
        source="Kaplan et al., arXiv:2001.08361, equations 1.1-1.3",
        terms=(_FLOOR, term) if floor else (term,),
        exponents={"alpha": floored if floor else free},
    )


_ALL = (
    Form(
        name="chinchilla",
        equation="E + A/N^alpha + B/D^beta",
        source="Hoffmann et al., arXiv:2203.15556, equation 2",
        terms=(_FLOOR, _term("A", "alpha", _N, 0.25), _term("B", "beta", _D, 0.25)),
        exponents={"alpha": _JOINT, "beta": _JOINT},
    ),
    Form(
        name="chinchilla-tied",
        equation="E + A/N^alpha + B/D^alpha",
        source="Hoffmann et al. with one exponent, as Muennighoff et al., arXiv:2305.16264, section 3",
        terms=(_FLOOR, _term("A", "alpha", _N, 0.25), _term("B", "alpha", _D, 0.25)),
        exponents={"alpha": _JOINT},
    ),
    Form(
        name="gadre",
        equation="E + (a M^eta + b M^-eta) C^-eta, M = D/N, C = 6ND",
        source="Gadre et al., arXiv:2403.08540, equation 4",
        terms=(
            _FLOOR,
            _term("a", "eta", {"N": -2.0, "six": -1.0}, 0.25),
            _term("b", "eta", {"D": -2.0, "six": -1.0}, 0.25),
        ),
        exponents={"eta": (0.175, 0.075)},
    ),
    *(
        _single(letter, power, floor=floor)
        for letter, power in (("N", _N), ("D", _D), ("C", _C))
        for floor in (False, True)
    ),
)
# Size and data limit each other: kappa = 1 adds the terms; below, the larger one, the bottleneck, counts for
# more and a small model gains less from more data than a large one. All ten public sets and all own ladders
# are described better by .85 than by 1, most by .5 to .7 (bench/laws/coupling.py).
_KAPPA = (math.log(0.75), 0.35)
_COUPLED = Form(
    name="coupled",
    equation="E + ((A/N^alpha)^(1/kappa) + (B/D^beta)^(1/kappa))^kappa",
    source="Kaplan et al., arXiv:2001.08361, equation 1.5 (there kappa = beta, E = 0), with a floor",
    # Two equal terms give together 2^kappa of one.
    terms=(
        _FLOOR,
        _term("A", "alpha", _N, 0.5 * 2.0 ** -math.exp(_KAPPA[0])),
        _term("B", "beta", _D, 0.5 * 2.0 ** -math.exp(_KAPPA[0])),
    ),
    exponents={"alpha": _JOINT, "beta": _JOINT, "kappa": _KAPPA},
    coupled=True,
)
FORMS: Mapping[str, Form] = {form.name: form for form in (_COUPLED, *_ALL)}


def experts_form(start: float = 1.0, most: float = 1e12) -> Form:
    """Mixture of experts: bilinear in log N and log Ê, where Ê saturates between `start` and `most`.

    N is the size without the added experts. 1/Ê = 1/(E - 1 + 1/(1/start - 1/most)) + 1/most: one expert
    counts as `start`, infinitely many as `most`. Valid at one number of tokens: Clark et al. fit 130 B.
    """
    ratio = f"experts:{start:g}:{most:g}"
    power = {"alpha": _N, "beta": {ratio: -1.0}, "gamma": {f"N*{ratio}": 1.0}}
    return Form(
        name="experts" if (start, most) == (1.0, 1e12) else f"experts{json.dumps([start, most])}",
        equation="A / (N^alpha X^beta) * exp(gamma log N log X), X: experts"
        + ("" if most >= 1e12 else f", one counting as {start:g}, no number as more than {most:g}"),
        source="Clark et al., arXiv:2202.01169, equations 1 and 20",
        terms=(Term(amplitude="A", powers=power, share=1.0),),
        exponents={"alpha": (0.08, 0.05), "beta": (0.08, 0.08), "gamma": (0.007, 0.01)},
        needs="experts",
    )


def pooled_form(base: Form, corpora: Sequence[str]) -> Form:
    """`base` for several corpora at once: shared exponents; floor and amplitudes of each corpus its own.

    The corpora after the first have log-ratios to the first, drawn weakly towards none.
    """
    ratios, terms = {}, []
    for term in base.terms:
        powers = dict(term.powers)
        for corpus in corpora[1:]:
            name = f"log {term.amplitude} {corpus}"
            powers[name] = {f"corpus={corpus}": 1.0}
            ratios[name] = (0.0, _RATIO_SD)
        terms.append(replace(term, powers=powers))
    return replace(
        base,
        name=f"pooled{json.dumps([base.name, *corpora])}",
        equation=f"{base.equation}; as shown for {corpora[0]}, amplitudes times exp(log ...) for others",
        terms=tuple(terms),
        exponents=_with(base, ratios),
        needs="corpus",
    )


def bent_form(base: Form) -> Form:
    """`base` with a curvature in log N and log D: how a broken power law looks near its break.

    Only a detector (Caballero et al., arXiv:2210.14891, section 2): how far the forecast moves when the law
    may bend is part of the interval; a bend is never extrapolated as the forecast itself.
    """
    terms = []
    for term in base.terms:
        bends = {
            f"bend {name}": {f"{column}^2": 1.0 for column in power if column in ("N", "D")}
            for name, power in term.powers.items()
            if name in base.exponents
        }
        terms.append(replace(term, powers={**term.powers, **bends}))
    names = dict.fromkeys(name for term in terms for name in term.powers if name.startswith("bend "))
    return replace(
        base,
        name=f"bent{json.dumps([base.name])}",
        equation=f"{base.equation}, each power times exp(bend log^2(N/N0) / 2), N0 the middle of the runs",
        source="second order of Caballero et al., arXiv:2210.14891, equation 1",
        terms=tuple(terms),
        exponents=_with(base, dict.fromkeys(names, (0.0, _BEND_SD))),
    )


def _with(base: Form, more: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """The base's exponents and more, κ last."""
    kappa = {name: prior for name, prior in base.exponents.items() if name == "kappa"}
    return {**{k: v for k, v in base.exponents.items() if k != "kappa"}, **more, **kappa}


@cache
def form_named(name: str) -> Form:
    """The form of that name, as in `FORMS` or as a form with arguments names itself; LawError otherwise."""
    base, bracket, rest = name.partition("[")
    if base == "experts":
        return experts_form(*json.loads(bracket + rest)) if bracket else experts_form()
    if base in _MADE and bracket:
        of, *arguments = json.loads(bracket + rest)
        return _MADE[base](form_named(of), arguments)
    if name not in FORMS:
        known = [*FORMS, "experts"]
        raise LawError(
            "unknown form of the law", got=f"{name!r}{did_you_mean(name, known)}", allowed=", ".join(known)
        )
    return FORMS[name]


_MADE: Mapping[str, Callable[[Form, list[Any]], Form]] = {
    "pooled": pooled_form,
    "bent": lambda form, _: bent_form(form),
}


def columns_at(
    form: Form,
    params: Array,
    tokens: Array,
    extra: Extra | None = None,
    middle: tuple[float, float] | None = None,
) -> Array:
    """The form's columns (c, n) as they are; `middle` (of log N, log D) is where the bends turn.

    Raises:
        LawError: the runs lack what the form reads.
    """
    log_n, log_d = np.log(params), np.log(tokens)
    known = {"N": log_n, "D": log_d, "six": np.full(len(log_n), LOG6)}
    for name, values, place in (("N^2", log_n, 0), ("D^2", log_d, 1)):
        if middle:
            known[name] = (values - middle[place]) ** 2 / 2
    return np.stack([known[n] if n in known else _column(form, n, log_n, extra or {}) for n in form.columns])


def _column(form: Form, name: str, log_n: Array, extra: Extra) -> Array:
    if form.needs not in extra:
        raise LawError(f"this law needs {form.needs} of every run", next_command=f"add a column {form.needs}")
    values = extra[form.needs]
    if name.startswith("corpus="):
        for item in set(values) - set(form.corpora):
            raise LawError(
                "the law knows no such corpus",
                got=f"{item!r}{did_you_mean(str(item), form.corpora)}",
                allowed=", ".join(form.corpora),
            )
        return np.array([float(item == name.removeprefix("corpus=")) for item in values])
    start, most = (float(item) for item in name.split(":")[1:])
    count = np.asarray(values, float)
    if not (np.isfinite(count).all() and (count >= 1).all()):
        raise LawError("experts must be numbers of one or more", got=f"{count.min():g}")
    log_experts = -np.log(1 / (count - 1 + 1 / (1 / start - 1 / most)) + 1 / most)
    return log_n * log_experts if name.startswith("N*") else log_experts


def design(form: Form, columns: Array) -> Array:
    """Terms as matrices (K, n, p) at *centred* columns (c, n)."""
    names, places = form.names, {name: k for k, name in enumerate(form.columns)}
    out = np.zeros((len(form.terms), columns.shape[1], len(names)))
    for k, term in enumerate(form.terms):
        out[k, :, k] = 1.0
        for exponent, power in term.powers.items():
            for column, coefficient in power.items():
                out[k, :, names.index(exponent)] += coefficient * columns[places[column]]
    return out


def to_constants(form: Form, theta: Array, centre: Sequence[float] | Array) -> dict[str, float]:
    """θ at the centre of the data → the constants of the equation."""
    values = dict(zip(form.names, (float(item) for item in theta), strict=True))
    constants = {}
    for term in form.terms:
        shift = _shift(form, term, values, centre)
        constants[term.amplitude] = math.exp(min(values[term.amplitude] - shift, 700.0))
    others = {name: values[name] for name in form.exponents}
    return constants | others | ({"kappa": math.exp(values["kappa"])} if form.coupled else {})


def to_theta(form: Form, constants: Mapping[str, float], centre: Sequence[float] | Array) -> Array:
    """Constants of the equation → θ at the centre of the data."""
    theta = [
        math.log(max(constants[term.amplitude], 1e-300)) + _shift(form, term, constants, centre)
        for term in form.terms
    ]
    constants = {**constants, **({"kappa": math.log(constants["kappa"])} if form.coupled else {})}
    return np.array([*theta, *(constants[name] for name in form.exponents)])


def _shift(form: Form, term: Term, values: Mapping[str, float], centre: Sequence[float] | Array) -> float:
    places = dict(zip(form.columns, centre, strict=True))
    return sum(
        values[exponent] * coefficient * places[column]
        for exponent, power in term.powers.items()
        for column, coefficient in power.items()
    )


def predict_theta(form: Form, theta: Array, centre: Sequence[float] | Array, columns: Array) -> Array:
    """Log-loss (B, m) at columns (c, m) for B rows of θ."""
    matrix = design(form, columns - np.array(centre)[:, None])
    logits = np.einsum("bp,kmp->bkm", np.atleast_2d(theta), matrix)
    if form.coupled:
        kappa = np.exp(np.atleast_2d(theta)[:, -1:])
        logits = np.stack([logits[:, 0], kappa * softmax(logits[:, 1:] / kappa[:, None])[0]], axis=1)
    return softmax(logits)[0]


def predict(
    form_name: str,
    constants: Mapping[str, float],
    params: Sequence[float] | Array,
    tokens: Sequence[float] | Array,
    extra: Extra | None = None,
) -> Array:
    """Loss of a law with known constants, in the law's unit; params and tokens broadcast.

    Raises:
        LawError: unknown form.
    """
    form = form_named(form_name)
    params, tokens = np.broadcast_arrays(np.asarray(params, float), np.asarray(tokens, float))
    centre = np.zeros(len(form.columns))
    theta = to_theta(form, constants, centre)
    columns = columns_at(form, params.ravel(), tokens.ravel(), extra)
    # A law without a floor or with a negative exponent may leave the range of a float far from its data.
    return np.exp(np.minimum(predict_theta(form, theta, centre, columns)[0], 700.0)).reshape(params.shape)
