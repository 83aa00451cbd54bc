"""Lung nodules: a small reference detector, and the places where a site brings its own."""
