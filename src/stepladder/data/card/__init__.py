"""Documents and verdicts in; tallies, audit, data card and Croissant record out (`audit.py` first)."""
