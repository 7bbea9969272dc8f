"""Plain `nn.Module`s, metrics and functions that bricks wrap; they do not depend on bricks."""
