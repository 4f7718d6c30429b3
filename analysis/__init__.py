"""isae.analysis"""
