"""A static web site of models: an index, and a page for each model with a demo that runs in the browser."""
