"""photochrom bench stalls"""
