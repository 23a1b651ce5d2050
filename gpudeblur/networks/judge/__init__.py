"""The judge: which of several candidate kernels of one image is right, by what each makes of the image."""
