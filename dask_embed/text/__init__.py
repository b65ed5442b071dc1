"""Between characters and tokens, and back."""
