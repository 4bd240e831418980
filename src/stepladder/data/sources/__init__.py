"""Names of sources in; files, and documents of them, out (`listing.py`, then `read.py`)."""
