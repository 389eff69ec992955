"""Tables that other programs wrote, as frames that the same measures and statistics serve."""
