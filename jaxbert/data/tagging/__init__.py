"""Texts in which some words are marked: reading them, and tags, words and tokens brought together."""
