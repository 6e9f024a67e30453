"""Loggers whose axis is the images seen; TensorBoard's is Lightning's own."""
