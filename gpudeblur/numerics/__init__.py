"""Arrays and transforms on NumPy and CuPy: everything here works on plain arrays and knows no image."""
