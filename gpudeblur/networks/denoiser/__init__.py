"""The denoiser for white noise and for what deconvolution leaves behind."""
