"""Final deconvolution with a known kernel, one method a file."""
