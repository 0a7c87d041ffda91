"""photochrom bench loader"""
