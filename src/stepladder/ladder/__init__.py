"""A corpus and a share of the budget in; small training runs that a law can be fitted to out."""
