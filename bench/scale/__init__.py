"""photochrom bench scale"""
