"""Predictions, checkpoints and texts in; metrics with intervals, cheap baselines and bits per byte out."""
