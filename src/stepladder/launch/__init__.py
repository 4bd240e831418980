"""Plans in; processes out: the one place that turns a plan into a command line and watches it."""
