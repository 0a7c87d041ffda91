"""photochrom bench step"""
