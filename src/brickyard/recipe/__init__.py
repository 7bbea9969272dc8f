"""From a model name to a description, and from that to bricks."""
