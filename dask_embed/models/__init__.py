"""What gets loaded: specifications of models, and the files of their checkpoints."""
