"""Grids of experiments: expanded, folded, run one after the other or written as commands, and what they cost."""
