"""isae.kernels"""
