"""Documents in; exact copies, near-duplicates and shared lines out (`dedup.py`, then `clusters.py`)."""
