"""What everything stands on: errors, deadlines, processes, settings, records; nothing of ours."""
