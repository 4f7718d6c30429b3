"""isae.inception"""
