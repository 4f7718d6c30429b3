"""`isae-analyze report`: static pages of every feature that open from disk."""
