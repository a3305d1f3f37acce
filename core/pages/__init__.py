"""What every page stands on: answers, forms, lists by place, charts, spreadsheets."""
