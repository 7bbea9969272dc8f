"""Public checkpoints of other libraries as bricks."""
