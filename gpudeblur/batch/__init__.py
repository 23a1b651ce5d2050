"""Many images: an iterator over any source, pipelines on CPU and GPU, folders and their reports."""
