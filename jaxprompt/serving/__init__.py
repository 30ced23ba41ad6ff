"""Many prompts on one frozen model: the bank of them, and files answered line by line."""
