"""python -m stepladder."""

from stepladder.cli import script

script()
