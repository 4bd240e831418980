"""Sizes in; shapes, counts and the network itself out."""
