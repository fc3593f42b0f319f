"""From pixels and mel frames to vectors as wide as the text's."""
