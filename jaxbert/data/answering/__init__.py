"""Questions with the text that answers them: reading them, and windows of tokens over long texts."""
