"""From corpus, hardware and budget to a trained language model whose size and loss were forecast."""

__version__ = "0.1.0"
