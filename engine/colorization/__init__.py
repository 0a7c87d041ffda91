"""Colorizes images and videos at full resolution."""
