"""What can be read off trained prompts: words near them, their norms, how alike they are, and a page that shows it."""
