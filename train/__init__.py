"""isae.train"""
