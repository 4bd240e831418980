"""A law, a machine and a budget in; the plan of a run out, every number with interval, reason and source."""
