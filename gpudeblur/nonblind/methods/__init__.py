"""The methods, one per file: f(blurred, kernel, *, ..., callback) on (..., H, W). `specs` checks their arguments."""
