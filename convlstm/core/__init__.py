"""What the rest stands on: files, hashing, checks of arguments, what can be saved and its model card."""
