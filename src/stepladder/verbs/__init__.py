"""One thin function a verb: words in, package functions called, text or JSON printed."""
