"""`isae-analyze prepare` and `all`: one network's stores, SAEs and analyses as one folder."""
