"""Evaluation sets and training text in; what they share out (`decontaminate.py` first)."""
