"""Decoding, ranked choices, metrics and learning curves."""
