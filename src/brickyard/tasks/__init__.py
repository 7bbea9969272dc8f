"""Tasks: one file each, from the features of a backbone and the labels of a data set to bricks."""
