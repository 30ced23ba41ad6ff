"""Prompt methods, their initial values, and saved prompts."""
