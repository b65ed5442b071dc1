"""Text generation: what is asked for in plain values, and the loops that do it, with torch."""
