"""Benchmarks that only developers run: python -m photochrom.bench.dev.NAME"""
