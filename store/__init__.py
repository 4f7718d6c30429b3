"""isae.store"""
