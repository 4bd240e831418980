"""A fitted law and its runs in; warnings with their numbers, and the reason to refuse, out."""

from stepladder.laws.estimate import Estimate
from stepladder.laws.rollout import Rollout
from stepladder.laws.table import Table
from stepladder.records import Law


def diagnose(law: Law, table: Table, fitted: Estimate, rolled: Rollout) -> tuple[str, ...]:
    return ()


def refuse(law: Law, table: Table, fitted: Estimate, rolled: Rollout) -> str:
    return ""
