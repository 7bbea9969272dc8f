"""Bricks, their names, tags, plan and graph; needs torch and torchmetrics only."""
