"""Between Python and the wire: errors and their statuses, arrays and texts and their messages."""
