"""Names of laws in; their terms as matrices, and losses predicted from constants out.

Every form here is L = Σ_k amplitude_k · Π (column)^(± exponent), so its log-loss is a log-sum-exp of terms
that are linear in θ = (log-amplitudes at the middle of the data, exponents). `repeat` holds the laws that
are not of this kind.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stepladder.errors import LawError, did_you_mean

Array = np.ndarray
LOG6 = math.log(6.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """amplitude · exp(Σ exponent · (n·log N + d·log D + s·log 6)); powers: exponent → (n, d, s)."""

    amplitude: str
    powers: Mapping[str, tuple[float, float, float]]
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """A law. `exponents` gives each exponent's prior (mean, standard deviation); `share` of each term is
    its prior part of the loss at the middle of the data."""

    name: str
    equation: str
    source: str
    terms: tuple[Term, ...]
    exponents: Mapping[str, tuple[float, float]]

    @property
    def names(self) -> tuple[str, ...]:
        """Amplitudes, then exponents: the order of θ."""
        return (*(term.amplitude for term in self.terms), *self.exponents)

    @property
    def has_floor(self) -> bool:
        """Whether the first term is an irreducible loss E."""
        return self.terms[0].amplitude == "E"


# Exponents of published joint fits lie between .28 and .37 (arXiv:2203.15556, 2404.10102) and up to .45
# for small models on narrow text (docs/log.md); .35 ± .15 holds them all. Shares: as in ladder/design.
_JOINT = (0.35, 0.15)
_FLOOR = Term(amplitude="E", powers={}, share=0.5)


def _term(amplitude: str, exponent: str, power: tuple[float, float, float], share: float) -> Term:
    return Term(amplitude=amplitude, powers={exponent: power}, share=share)


_N, _D, _C = (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (-1.0, -1.0, -1.0)


def _single(letter: str, power: tuple[float, float, float], *, floor: bool) -> Form:
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
            _term("a", "eta", (-2.0, 0.0, -1.0), 0.25),
            _term("b", "eta", (0.0, -2.0, -1.0), 0.25),
        ),
        exponents={"eta": (0.175, 0.075)},
    ),
    *(
        _single(letter, power, floor=floor)
        for letter, power in (("N", _N), ("D", _D), ("C", _C))
        for floor in (False, True)
    ),
)
FORMS: Mapping[str, Form] = {form.name: form for form in _ALL}


def form_named(name: str) -> Form:
    """The form of that name; LawError with did-you-mean otherwise."""
    if name not in FORMS:
        raise LawError(
            "unknown form of the law", got=f"{name!r}{did_you_mean(name, FORMS)}", allowed=", ".join(FORMS)
        )
    return FORMS[name]


def design(form: Form, log_n: Array, log_d: Array) -> Array:
    """Terms as matrices (K, n, p) at *centred* log-columns; log 6 drops out by centring."""
    names = form.names
    out = np.zeros((len(form.terms), len(log_n), len(names)))
    for k, term in enumerate(form.terms):
        out[k, :, k] = 1.0
        for exponent, (n, d, _) in term.powers.items():
            out[k, :, names.index(exponent)] += n * log_n + d * log_d
    return out


def to_constants(form: Form, theta: Array, centre: tuple[float, float]) -> dict[str, float]:
    """θ at the centre of the data → the constants of the equation."""
    values = dict(zip(form.names, (float(item) for item in theta), strict=True))
    constants = {}
    for term in form.terms:
        shift = sum(values[e] * _power(power, centre) for e, power in term.powers.items())
        constants[term.amplitude] = math.exp(min(values[term.amplitude] - shift, 700.0))
    return constants | {name: values[name] for name in form.exponents}


def to_theta(form: Form, constants: Mapping[str, float], centre: tuple[float, float]) -> Array:
    """Constants of the equation → θ at the centre of the data."""
    theta = []
    for term in form.terms:
        shift = sum(constants[e] * _power(power, centre) for e, power in term.powers.items())
        theta.append(math.log(max(constants[term.amplitude], 1e-300)) + shift)
    return np.array([*theta, *(constants[name] for name in form.exponents)])


def predict_theta(
    form: Form, theta: Array, centre: tuple[float, float], params: Array, tokens: Array
) -> Array:
    """Log-loss (B, m) at m sizes for B rows of θ."""
    matrix = design(form, np.log(params) - centre[0], np.log(tokens) - centre[1])
    logits = np.einsum("bp,kmp->bkm", np.atleast_2d(theta), matrix)
    top = logits.max(axis=1)
    return top + np.log(np.exp(logits - top[:, None, :]).sum(axis=1))


def predict(
    form_name: str,
    constants: Mapping[str, float],
    params: Sequence[float] | Array,
    tokens: Sequence[float] | Array,
) -> Array:
    """Loss of a law with known constants, in the law's unit; params and tokens broadcast.

    Raises:
        LawError: unknown form.
    """
    form = form_named(form_name)
    params, tokens = np.broadcast_arrays(np.asarray(params, float), np.asarray(tokens, float))
    theta = to_theta(form, constants, (0.0, 0.0))
    log_loss = predict_theta(form, theta, (0.0, 0.0), params.ravel(), tokens.ravel())[0]
    # A law without a floor or with a negative exponent may leave the range of a float far from its data.
    return np.exp(np.minimum(log_loss, 700.0)).reshape(params.shape)


def _power(power: tuple[float, float, float], centre: tuple[float, float]) -> float:
    return power[0] * centre[0] + power[1] * centre[1] + power[2] * LOG6
