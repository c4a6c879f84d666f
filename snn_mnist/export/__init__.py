"""Saved networks in the formats of other programs, hardware and the browser; docs/interop.md explains them."""
