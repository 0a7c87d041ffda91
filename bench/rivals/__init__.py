"""photochrom bench rivals: other data loaders, each a module here, and what measures them"""
