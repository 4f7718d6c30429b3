"""`isae-analyze branches`: where every feature lies among its layer's branches."""
