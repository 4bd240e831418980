"""A Plan in; a Run out: one loop for rungs, targets and fine-tuning, exact after any interruption."""
