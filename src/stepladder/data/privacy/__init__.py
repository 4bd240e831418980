"""Texts in; the same texts without personal data and secrets out (`pii.py` first)."""
