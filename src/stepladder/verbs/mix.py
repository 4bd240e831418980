"""`stepladder mix`: small runs on several mixtures of domains in; the best one, or the next to run, out."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def mix(
    runs: Annotated[
        Path | None, Parameter(help="CSV with share_DOMAIN and loss_DOMAIN (or loss), one row a run.")
    ] = None,
    *,
    weights: Annotated[str, Parameter(help="Weights of the losses: web=2,code=1 (default: equal).")] = "",
    floor: Annotated[str, Parameter(help="Least shares: code=0.1.")] = "",
    available: Annotated[str, Parameter(help="Tokens that there are: code=2e9,web=1e11.")] = "",
    tokens: Annotated[float, Parameter(help="Tokens of the run that the mixture is for.")] = 0.0,
    max_epochs: Annotated[float, Parameter(help="How often a token of `available` may be seen.")] = 4.0,
    domains: Annotated[str, Parameter(help="Without runs: the domains, to design the first ones.")] = "",
    next_: Annotated[int, Parameter(name="--next", help="Name this many mixtures to run next.")] = 0,
    out: Annotated[Path | None, Parameter(help="Write the best mixture here as JSON.")] = None,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Choose the mixture of domains by small runs (exponential law in the shares)."""
    from stepladder.errors import LawError
    from stepladder.laws.blend import Limits, best_mixture, mixture_text, next_mixtures
    from stepladder.laws.mixture import fit_mixture, read_mixture
    from stepladder.records import to_json
    from stepladder.store import write_json

    limits = Limits(
        floor=numbers(floor, "--floor"),
        available=numbers(available, "--available"),
        budget_tokens=tokens,
        max_epochs=max_epochs,
    )
    if runs is None:
        names = [name.strip() for name in domains.split(",") if name.strip()]
        if len(names) < 2:
            raise LawError(
                "a mixture needs runs, or two or more domains to design the first runs for",
                got="neither",
                next_command="stepladder mix --domains web,code --next 8",
            )
        first = next_mixtures(names, next_ or 2 * len(names) + 3, limits=limits)
        print(json.dumps({"next": first}) if json_ else _shares_csv(names, first))
        return 0
    law = fit_mixture(read_mixture(runs))
    wanted = numbers(weights, "--weights") or None
    best = best_mixture(law, wanted, limits)
    after = next_mixtures(law, next_, wanted, limits) if next_ else []
    if out:
        write_json(out, to_json(best))
    if json_:
        print(json.dumps({"law": to_json(law), "best": to_json(best), "next": after}))
    else:
        print(mixture_text(law, best, after))
    return 0


def _shares_csv(names: list[str], rows: list[dict[str, float]]) -> str:
    """The first runs as a CSV to be filled in with losses."""
    head = ",".join([f"share_{name}" for name in names] + [f"loss_{name}" for name in names])
    return "\n".join(
        [head, *(",".join(f"{row[name]:g}" for name in names) + "," * len(names) for row in rows)]
    )


def numbers(text: str, flag: str) -> dict[str, float]:
    """`web=2,code=1` as a mapping."""
    from stepladder.errors import LawError

    try:
        pairs = (item.split("=") for item in text.split(",") if item.strip())
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise LawError(f"{flag} needs names and numbers", got=repr(text), allowed="web=2,code=1") from None
