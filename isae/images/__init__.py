"""isae.images"""
