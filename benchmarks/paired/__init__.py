"""What the side-by-side benchmarks share: shapes, our side, PEFT's side, and how they take turns.

Each side works in a process of its own. In every round each is timed once, one directly after the other, so that a busy
machine slows both; the first round warms up and does not count. Throughout, **ratio** is how many times as long the
peer takes as we do, the median over rounds of peer / ours: 2.0 is twice as fast as PEFT.
"""
