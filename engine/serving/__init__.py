"""Trained models behind a web page, and over HTTP."""
