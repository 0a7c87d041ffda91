"""Image bytes to RGB and Lab, and back."""
