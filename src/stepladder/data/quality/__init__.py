"""Documents in; normalised text, language and the first broken quality rule out (`clean.py` first)."""
