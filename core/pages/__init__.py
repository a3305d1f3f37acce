"""The foundation of pages: answers, forms, paging, charts, spreadsheets."""
