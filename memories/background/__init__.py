"""Works behind the scenes: index upkeep, cut-off adds, removal of what is over."""
