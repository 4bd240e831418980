"""Text sources in; a corpus folder with token shards, tokenizer, audit and card out (`prepare.py` first)."""
