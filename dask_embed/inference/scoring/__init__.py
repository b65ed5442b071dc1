"""How likely a language model takes texts to be."""
