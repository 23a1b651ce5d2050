"""The gate of `restore`: which images are of a small face."""
