"""Trained models that come with Photochrom: NAME.safetensors in half precision, and its card NAME.md."""
