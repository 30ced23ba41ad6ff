"""The frozen language models: T5 today; modules, loading and saving."""
