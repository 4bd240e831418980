"""Texts in; a tokenizer, token ids and memory-mapped shards out."""
