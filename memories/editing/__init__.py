"""Changes memories: update, delete, restore, erase, and undo of the last change."""
