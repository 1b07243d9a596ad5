"""One suite an op: its cases over the shapes of GLIDE's models."""
